// Writes the float32 vectors of all texts, encoded at once by as many threads as asked: vectors FOLDER THREADS.
#include <cstdlib>
#include <string_view>
#include <thread>

#include "m2d_encoder.hpp"
#include "messages.hpp"

int main(int, char** arguments) {
  try {
    const m2d::Encoder encoder(arguments[1]);
    const std::vector<std::string> texts = read_texts();
    const std::vector<std::string_view> views(texts.begin(), texts.end());
    std::vector<std::vector<float>> vectors(std::strtoul(arguments[2], nullptr, 10));
    std::vector<std::thread> threads;
    for (auto& own : vectors) threads.emplace_back([&] { own = encoder.encode(views); });
    for (auto& thread : threads) thread.join();
    for (const auto& own : vectors) write(own);
  } catch (const m2d::Error& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
