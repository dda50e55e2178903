// Writes the float32 vectors of all texts, once for each thread that encodes them: vectors FOLDER THREADS [WHERE].
#include <cstdlib>
#include <future>
#include <string_view>

#include "m2d_encoder.hpp"
#include "messages.hpp"

int main(int count, char** arguments) {
  try {
    const m2d::Encoder encoder(arguments[1], count > 3 ? std::atoi(arguments[3]) : 0);
    const std::vector<std::string> texts = read_texts();
    const std::vector<std::string_view> views(texts.begin(), texts.end());
    std::vector<std::future<std::vector<float>>> threads(std::strtoul(arguments[2], nullptr, 10));
    for (auto& own : threads) own = std::async(std::launch::async, [&] { return encoder.encode(views); });
    for (auto& own : threads) write(own.get());
  } catch (const m2d::Error& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
