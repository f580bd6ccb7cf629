"""The lines: every plug-in as ``kind/name = "module:attribute"``. Reading this file imports nothing.

Other packages add theirs through entry points in the groups ``bitfront.task``, ``bitfront.dataset``, ...
"""

from __future__ import annotations

__all__ = ["CATALOG", "KINDS"]

KINDS = ("task", "dataset", "model", "runtime", "device", "objective", "tracker")

CATALOG: dict[str, str] = {
    "task/classification": "bitfront.tasks.classification:Classification",
    "task/detection": "bitfront.tasks.detection:Detection",
    "task/segmentation": "bitfront.tasks.segmentation:Segmentation",
    "dataset/conveyor": "bitfront.data.conveyor:Conveyor",
    "dataset/folder": "bitfront.data.folder:Folder",
    "dataset/annotated": "bitfront.data.annotated:Annotated",
    "dataset/camvid": "bitfront.data.camvid:CamVid",
    "dataset/cityscapes": "bitfront.data.cityscapes:Cityscapes",
    "dataset/voc": "bitfront.data.voc:Voc",
    "dataset/ade20k": "bitfront.data.ade20k:Ade20k",
    "dataset/class_folder": "bitfront.data.class_folder:ClassFolder",
    "dataset/csv": "bitfront.data.label_table:LabelTable",
    "dataset/digits": "bitfront.data.digits:Digits",
    "dataset/mnist": "bitfront.data.mnist:Mnist",
    "dataset/coco_stuff": "bitfront.data.coco_stuff:CocoStuff",
    "dataset/yaml": "bitfront.data.described:Described",
    "model/bisenet_v2": "bitfront.models.bisenet_v2:BiSeNetV2",
    "model/deeplab_v3_mobilenet_v2": "bitfront.models.deeplab_v3_mobilenet_v2:DeepLabV3MobileNetV2",
    "model/deeplab_v3_mobilenet_v3": "bitfront.models.deeplab_v3_mobilenet_v3:DeepLabV3MobileNetV3",
    "model/deeplab_v3plus_mobilenet_v2": "bitfront.models.deeplab_v3plus_mobilenet_v2:DeepLabV3PlusMobileNetV2",
    "model/fast_scnn": "bitfront.models.fast_scnn:FastScnn",
    "model/mnist_cnn": "bitfront.models.mnist_cnn:MnistCnn",
    "model/mobilenet_v2": "bitfront.models.mobilenet_v2:MobileNetV2",
    "model/q_seg1": "bitfront.models.q_seg:QSeg1",
    "model/q_seg2": "bitfront.models.q_seg:QSeg2",
    "model/ssd_mobilenet_v1": "bitfront.models.ssd_mobilenet:SsdMobileNetV1",
    "model/tiny": "bitfront.models.tiny:Tiny",
    "model/tiny_yolo_v2": "bitfront.models.yolo_v2:TinyYoloV2",
    "model/yolo_v2": "bitfront.models.yolo_v2:YoloV2",
    "model/yolo_v5l": "bitfront.models.yolo_v5:YoloV5l",
    "model/yolo_v5m": "bitfront.models.yolo_v5:YoloV5m",
    "model/yolo_v5n": "bitfront.models.yolo_v5:YoloV5n",
    "model/yolo_v5s": "bitfront.models.yolo_v5:YoloV5s",
    "runtime/onnxruntime": "bitfront.runtimes.onnxruntime:OnnxRuntime",
    "runtime/openvino": "bitfront.runtimes.openvino:OpenVino",
    "runtime/torch": "bitfront.runtimes.torch_runtime:TorchRuntime",
    "runtime/litert": "bitfront.runtimes.litert:LiteRt",
    "runtime/c_fixed": "bitfront.runtimes.c_fixed:CFixed",
    "device/host": "bitfront.devices.host:HOST",
    "objective/score": "bitfront.objectives.score:Score",
    "objective/size": "bitfront.objectives.size:Size",
    "objective/latency": "bitfront.objectives.latency:Latency",
    "objective/macs": "bitfront.objectives.macs:Macs",
    "objective/ram": "bitfront.objectives.ram:Ram",
    "objective/flash": "bitfront.objectives.flash:Flash",
    "tracker/tensorboard": "bitfront.trackers.tensorboard:TensorBoard",
    "tracker/mlflow": "bitfront.trackers.mlflow:MlFlow",
    "tracker/wandb": "bitfront.trackers.wandb:WeightsAndBiases",
}
