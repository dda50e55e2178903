// Texts on standard input, each with its length before it, a uint32 in the byte order of this machine.
#pragma once

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

inline std::vector<std::string> read_texts() {
  std::vector<std::string> texts;
  std::uint32_t size = 0;
  while (std::cin.read(reinterpret_cast<char*>(&size), sizeof size)) {
    texts.emplace_back(size, '\0');
    std::cin.read(texts.back().data(), size);
  }
  return texts;
}

template <typename Item>
void write(const std::vector<Item>& items) {
  std::cout.write(reinterpret_cast<const char*>(items.data()), static_cast<std::streamsize>(items.size() * sizeof(Item)));
}
