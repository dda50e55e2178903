// Reads texts, each behind its length (uint32, as this machine has it), and writes the ids of each in the same way.
#include <cstdint>
#include <iostream>
#include <string>

#include "tokenizer.hpp"

int main(int, char** arguments) {
  const m2d::Tokenizer tokenizer(arguments[1]);
  std::uint32_t size = 0;
  std::string text;
  while (std::cin.read(reinterpret_cast<char*>(&size), sizeof size)) {
    text.resize(size);
    std::cin.read(text.data(), size);
    const std::vector<std::int32_t> ids = tokenizer.ids(text);
    size = static_cast<std::uint32_t>(ids.size());
    std::cout.write(reinterpret_cast<const char*>(&size), sizeof size);
    std::cout.write(reinterpret_cast<const char*>(ids.data()), static_cast<std::streamsize>(size * sizeof ids[0]));
  }
}
