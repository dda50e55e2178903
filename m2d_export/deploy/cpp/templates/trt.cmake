# TENSORRT_ROOT is the folder of $title, with include/ and lib/.
find_path(TENSORRT_INCLUDE NvInferRuntime.h HINTS $${TENSORRT_ROOT} PATH_SUFFIXES include)
find_library(TENSORRT_LIBRARY $library HINTS $${TENSORRT_ROOT} PATH_SUFFIXES lib lib64)
if(NOT TENSORRT_INCLUDE OR NOT TENSORRT_LIBRARY)
  message(FATAL_ERROR "NvInferRuntime.h and lib$library were not found: unpack $title for C++, "
                      "and name its folder with -DTENSORRT_ROOT=...")
endif()
find_package(CUDAToolkit REQUIRED)
target_include_directories(m2d_encoder SYSTEM INTERFACE $${TENSORRT_INCLUDE})
target_link_libraries(m2d_encoder INTERFACE $${TENSORRT_LIBRARY} CUDA::cudart)
