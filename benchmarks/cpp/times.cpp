// times FOLDER TEXTS EVERY THREADS: for every line "bulk" or "single" that it reads, the seconds of encoding the texts
// of a file (one a line) in one call, or every so many of them alone, on one line.
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
  for (std::string asked; std::getline(std::cin, asked);) {
    if (asked == "bulk") {
      std::cout << seconds(encoder, texts.data(), texts.size());
    } else {
      for (std::size_t place = 0; place < texts.size(); place += every) {
        std::cout << seconds(encoder, &texts[place], 1) << ' ';
      }
    }
    std::cout << std::endl;
  }
}
