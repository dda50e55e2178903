// times FOLDER TEXTS EVERY THREADS: answers each line that it reads with seconds, on one line. For "bulk" it encodes all
// texts of a file (one a line) in one call. For "single" it encodes one text a call, and takes one of EVERY texts.
#include <chrono>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "m2d_encoder.hpp"

namespace {
double seconds(const m2d::Encoder& encoder, const std::string_view* texts, std::size_t count) {
  const auto started = std::chrono::steady_clock::now();
  encoder.encode(texts, count);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}
}  // namespace

int main(int, char** arguments) {
  std::ifstream file(arguments[2]);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  const std::vector<std::string_view> texts(lines.begin(), lines.end());
  const std::size_t every = std::stoul(arguments[3]);
  const m2d::Encoder encoder(arguments[1], std::stoi(arguments[4]));
  std::cout << "ready" << std::endl;
  for (std::string request; std::getline(std::cin, request);) {
    if (request == "bulk") {
      std::cout << seconds(encoder, texts.data(), texts.size());
    } else {
      for (std::size_t place = 0; place < texts.size(); place += every) {
        std::cout << seconds(encoder, &texts[place], 1) << ' ';
      }
    }
    std::cout << std::endl;
  }
}
