// Tables in large pages: a row looked up at random then costs no walk through the page table.
#pragma once
#include <cstddef>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // Linux 6.1
#endif
#endif

constexpr size_t kLargePage = size_t(1) << 21;

// Asks the system to put memory that is there already into large pages. What can't be (a small
// table, an older system, no memory in one piece) stays as it is: only speed hangs on it.
inline void use_large_pages(const void* memory, size_t size) {
#ifdef __linux__
  if (size < 2 * kLargePage) return;
  const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
  const uintptr_t first = (uintptr_t(memory) + page - 1) / page * page;
  const uintptr_t last = (uintptr_t(memory) + size) / page * page;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_COLLAPSE);
#endif
}
