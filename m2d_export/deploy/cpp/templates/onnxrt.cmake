# ONNXRUNTIME_ROOT is the folder of an ONNX Runtime release, with include/ and lib/.
find_path(ONNXRUNTIME_INCLUDE onnxruntime_cxx_api.h HINTS $${ONNXRUNTIME_ROOT}
          PATH_SUFFIXES include include/onnxruntime)
find_library(ONNXRUNTIME_LIBRARY onnxruntime HINTS $${ONNXRUNTIME_ROOT} PATH_SUFFIXES lib lib64)
if(NOT ONNXRUNTIME_INCLUDE OR NOT ONNXRUNTIME_LIBRARY)
  message(FATAL_ERROR "onnxruntime_cxx_api.h and libonnxruntime were not found: unpack a release of $title for C++, "
                      "and name its folder with -DONNXRUNTIME_ROOT=...")
endif()
target_include_directories(m2d_encoder SYSTEM INTERFACE $${ONNXRUNTIME_INCLUDE})
target_link_libraries(m2d_encoder INTERFACE $${ONNXRUNTIME_LIBRARY})
