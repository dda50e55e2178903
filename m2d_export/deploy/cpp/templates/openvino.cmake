# OpenVINO_DIR is the folder of OpenVINOConfig.cmake: README.md shows how to find it.
find_package(OpenVINO REQUIRED COMPONENTS Runtime)
target_link_libraries(m2d_encoder INTERFACE openvino::runtime)
