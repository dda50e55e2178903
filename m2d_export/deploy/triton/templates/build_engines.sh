#!/bin/sh
# Builds model.plan next to every model.onnx of this repository, for the GPU that it runs on. Only the TensorRT version
# that built a plan can load it, so run this in the TensorRT container of the same release as the server's container:
#
#   docker run --rm --gpus all -v "$$PWD:/models" nvcr.io/nvidia/tensorrt:$triton-py3 sh /models/build_engines.sh
set -eu
cd "$$(dirname "$$0")"
for graph in */1/model.onnx; do
  trtexec --onnx="$$graph" --saveEngine="$${graph%.onnx}.plan" --noTF32 \
    --minShapes=$min --optShapes=$opt --maxShapes=$max
done
