"""Everything that a recipe can name: ``name -> "module:attribute"``, one line a thing.

Nothing here is imported until it is used; ``registry`` reads the parameters from the source.
"""

DATASETS = {
    "bars": "harness.datasets.bars:load",
    "complete-journey": "harness.datasets.complete_journey:load",
    "complete-journey-baskets": "harness.datasets.journey_baskets:load",
    "complete-journey-responses": "harness.datasets.journey_responses:load",
    "generated": "harness.datasets.generated:load",
    "movielens": "harness.datasets.movielens:load",
    "table": "harness.datasets.table:load",
}

MODELS = {
    "dlrm": "harness.models.dlrm:build",
    "mlp": "harness.models.mlp:build",
    "fm": "harness.models.fm:build",
    "deepfm": "harness.models.deepfm:build",
    "dcn_v2": "harness.models.dcn_v2:build",
    "mf": "harness.models.mf:build",
    "two_embedding": "harness.models.two_embedding:build",
    "neumf": "harness.models.neumf:build",
    "sasrec": "harness.models.sasrec:build",
    "gru4rec": "harness.models.gru4rec:build",
    "mf_ranking": "harness.models.mf_ranking:build",
    "file": "harness.models.file:build",
}

STAGES = {
    "last_position": "harness.stages.last_position:last_position",
    "share_user": "harness.stages.share_user:share_user",
    "fold_tables": "harness.stages.fold_tables:fold_tables",
    "fuse_tables": "harness.stages.fuse_tables:fuse_tables",
    "prune_channels": "harness.stages.prune_channels:prune_channels",
    "clip_weights": "harness.stages.clip_weights:clip_weights",
    "prune_to_latency": "harness.stages.prune_to_latency:prune_to_latency",
    "factorize_linears": "harness.stages.factorize_linears:factorize_linears",
    "reduce_tables": "harness.stages.reduce_tables:reduce_tables",
    "share_rows": "harness.stages.share_rows:share_rows",
    "quantize_catalogue": "harness.stages.quantize_catalogue:quantize_catalogue",
    "cast_weights": "harness.stages.cast_weights:cast_weights",
    "finetune": "harness.stages.finetune:finetune",
    "distill": "harness.stages.distill:distill",
    "search_student": "harness.stages.search_student:search_student",
    "quantize_dynamic": "harness.stages.quantize_dynamic:quantize_dynamic",
    "quantize_static": "harness.stages.quantize_static:quantize_static",
    "quantize_aware": "harness.stages.quantize_aware:quantize_aware",
    "quantize_measured": "harness.stages.quantize_measured:quantize_measured",
    "convert_fp16": "harness.stages.convert_fp16:convert_fp16",
    "export_onnx": "harness.stages.export_onnx:export_onnx",
    "prune_rows": "harness.stages.prune_rows:prune_rows",
    "quantize_tables": "harness.stages.quantize_tables:quantize_tables",
    "flatten_candidates": "harness.stages.flatten_candidates:flatten_candidates",
    "native_operators": "harness.stages.native_operators:native_operators",
    "scan_catalogue": "harness.stages.scan_catalogue:scan_catalogue",
    "index_catalogue": "harness.stages.index_catalogue:index_catalogue",
    "build_tensorrt": "harness.stages.build_tensorrt:build_tensorrt",
}

ENGINES = {
    "torch-cpu": "harness.engines.torch_cpu:TorchCpu",
    "ort-cpu": "harness.engines.ort_cpu:OrtCpu",
    "openvino-cpu": "harness.engines.openvino_cpu:OpenVinoCpu",
    "faiss-cpu": "harness.engines.faiss_cpu:FaissCpu",
    "torch-cuda": "harness.engines.torch_cuda:TorchCuda",
    "torch-cuda-compiled": "harness.engines.torch_cuda_compiled:TorchCudaCompiled",
    "torch-cuda-graph": "harness.engines.torch_cuda_graph:TorchCudaGraph",
    "ort-cuda": "harness.engines.ort_cuda:OrtCuda",
    "ort-cuda-graph": "harness.engines.ort_cuda_graph:OrtCudaGraph",
    "tensorrt": "harness.engines.tensorrt:TensorRt",
    "tensorrt-graph": "harness.engines.tensorrt_graph:TensorRtGraph",
}

METRICS = {
    "auc": "harness.metrics.auc:auc",
    "gauc": "harness.metrics.gauc:gauc",
    "logloss": "harness.metrics.logloss:logloss",
    "normalised_entropy": "harness.metrics.normalised_entropy:normalised_entropy",
    "calibration_ratio": "harness.metrics.calibration_ratio:calibration_ratio",
    "ece": "harness.metrics.ece:ece",
    "ndcg@10": "harness.metrics.ndcg:ndcg_at_10",
    "recall@10": "harness.metrics.recall:recall_at_10",
    "precision@10": "harness.metrics.precision:precision_at_10",
    "mrr@10": "harness.metrics.mrr:mrr_at_10",
    "rmse": "harness.metrics.rmse:rmse",
    "mae": "harness.metrics.mae:mae",
}

CATALOG: dict[str, dict[str, str]] = {
    "datasets": DATASETS,
    "models": MODELS,
    "stages": STAGES,
    "engines": ENGINES,
    "metrics": METRICS,
}
