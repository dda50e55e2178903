// times FOLDER TEXTS THREADS: for every line "bulk" or "single" that it reads, the seconds of encoding the texts of a
// file (one a line) in one call, or of each of them alone, on one line.
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
  const m2d::Encoder encoder(arguments[1], std::stoi(arguments[3]));
  std::cout << "ready" << std::endl;
  for (std::string asked; std::getline(std::cin, asked);) {
    if (asked == "bulk") {
      std::cout << seconds(encoder, texts.data(), texts.size());
    } else {
      for (const std::string_view& text : texts) std::cout << seconds(encoder, &text, 1) << ' ';
    }
    std::cout << std::endl;
  }
}
