// Prints the vector of each text: example FOLDER TEXT...
#include <iostream>
#include <string_view>
#include <vector>

#include "m2d_encoder.hpp"

int main(int count, char** arguments) {
  if (count < 3) {
    std::cerr << "usage: example FOLDER TEXT...\n";
    return 2;
  }
  try {
    const m2d::Encoder encoder(arguments[1]);
    const std::vector<std::string_view> texts(arguments + 2, arguments + count);
    const std::vector<float> vectors = encoder.encode(texts);
    for (std::size_t place = 0; place < vectors.size(); ++place) {
      std::cout << vectors[place] << ((place + 1) % encoder.dim() == 0 ? '\n' : ' ');
    }
  } catch (const m2d::Error& error) {
    std::cerr << "example: " << error.what() << '\n';
    return 1;
  }
}
