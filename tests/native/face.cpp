// Reads one face crop with a .pte file through ExecuTorch's `Module`, the door that an app uses.
//
//   face vision MODEL.pte CROP.rgb OUT.f32
//   face words  MODEL.pte CROP.rgb OUT.f32 QUESTION COUNT
//
// CROP.rgb: the crop's bytes, row after row, RGB. QUESTION: its token ids with commas between.
// OUT.f32: every output one after the other, then for words the logits that chose each token.
// Printed: `output` with each shape, `logits` with theirs, `tokens` with the ids of the answer.
//
// Ends with 0, or with one line on what is wrong and 2 (the call), 3 (an input), 5 (the model).

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::aten::Tensor;
using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::runtime::EValue;
using executorch::runtime::Program;

namespace {

constexpr int kUsage = 2, kInput = 3, kBackend = 5;

struct Failure {
  int code;
  std::string text;
};

// What a method gave. Copied: the next call writes over the model's own memory.
struct Values {
  std::vector<SizesType> shape;
  std::vector<float> data;
};

std::string dimensions(const std::vector<SizesType>& shape) {
  std::string text;
  for (auto size : shape) text += (text.empty() ? "" : " ") + std::to_string(size);
  return text;
}

std::vector<uint8_t> bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Failure{kInput, path + ": cannot be read"};
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<int64_t> whole_numbers(const std::string& text) {
  std::vector<int64_t> found;
  for (size_t start = 0; start <= text.size();) {
    const size_t end = std::min(text.find(',', start), text.size());
    const std::string word = text.substr(start, end - start);
    char* rest = nullptr;
    errno = 0;
    const long long number = std::strtoll(word.c_str(), &rest, 10);
    if (word.empty() || *rest || errno || number < 0)
      throw Failure{kUsage, "'" + text + "': expected whole numbers with commas between"};
    found.push_back(number);
    start = end + 1;
  }
  return found;
}

class Model {
 public:
  explicit Model(const std::string& path) : path_(path), module_(path) {
    if (!std::ifstream(path)) throw Failure{kInput, path + ": cannot be read"};
    // Checked inside, too: a file that was cut off would else be read beyond its end.
    const auto error = module_.load(Program::Verification::InternalConsistency);
    if (error != executorch::runtime::Error::Ok)
      throw Failure{kInput, path + ": not a program of ExecuTorch"};
  }

  void must_have(const std::vector<std::string>& methods) {
    const auto names = module_.method_names();
    for (const auto& method : methods)
      if (!names.ok() || !names->count(method))
        throw Failure{kInput, path_ + ": has no method " + method};
  }

  std::vector<SizesType> input_shape(const std::string& method) {
    const auto meta = module_.method_meta(method);
    if (!meta.ok() || meta->num_inputs() == 0)
      throw Failure{kInput, path_ + ": " + method + " takes nothing"};
    const auto info = meta->input_tensor_meta(0);
    if (!info.ok()) throw Failure{kInput, path_ + ": " + method + " takes no tensor"};
    return {info->sizes().begin(), info->sizes().end()};
  }

  std::vector<Values> run(const std::string& method, std::vector<EValue> inputs) {
    auto result = module_.execute(method, inputs);
    if (!result.ok())
      throw Failure{
          kBackend,
          path_ + ": " + method + " failed with code " +
              std::to_string(static_cast<int>(result.error()))};
    std::vector<Values> found;
    for (const auto& value : *result) {
      if (!value.isTensor() || value.toTensor().scalar_type() != ScalarType::Float)
        throw Failure{kBackend, path_ + ": " + method + " gives something else than float32"};
      const Tensor tensor = value.toTensor();
      const float* data = tensor.const_data_ptr<float>();
      found.push_back(
          {{tensor.sizes().begin(), tensor.sizes().end()}, {data, data + tensor.numel()}});
      for (float one : found.back().data)
        if (!std::isfinite(one))
          throw Failure{kBackend, path_ + ": " + method + " gives a value that is not finite"};
    }
    return found;
  }

  std::vector<int64_t> facts(const std::string& method) {
    must_have({method});
    auto result = module_.execute(method);
    if (!result.ok() || result->empty())
      throw Failure{kBackend, path_ + ": " + method + " cannot be asked"};
    std::vector<int64_t> found;
    for (const auto& value : *result)
      if (value.isInt()) found.push_back(value.toInt());
    if (found.empty()) throw Failure{kBackend, path_ + ": " + method + " is no whole number"};
    return found;
  }

 private:
  std::string path_;
  Module module_;
};

std::vector<Values> see(Model& model, const std::string& method, std::vector<uint8_t>& crop) {
  auto shape = model.input_shape(method);
  size_t expected = 1;
  for (auto size : shape) expected *= size;
  if (crop.size() != expected)
    throw Failure{
        kInput,
        "the crop has " + std::to_string(crop.size()) + " bytes instead of " +
            std::to_string(expected) + " (" + dimensions(shape) + ")"};
  return model.run(method, {EValue(from_blob(crop.data(), shape, ScalarType::Byte))});
}

// A conversation: what is read goes to the next free positions of the model's memory.
class Conversation {
 public:
  explicit Conversation(Model& model)
      : model_(model), room_(model.facts("get_max_context_len")[0]) {}

  Values read(std::vector<int64_t> tokens) {
    const auto count = static_cast<SizesType>(tokens.size());
    auto found = model_.run(
        "token_embedding", {EValue(from_blob(tokens.data(), {1, count}, ScalarType::Long))});
    return read(std::move(found.at(0)));
  }

  Values read(Values embeddings) {
    const auto count = embeddings.shape.at(1);
    if (at_ + count > room_)
      throw Failure{kInput, "more than " + std::to_string(room_) + " tokens in one conversation"};
    std::vector<int64_t> positions(count);
    for (auto& position : positions) position = at_++;
    auto values = from_blob(embeddings.data.data(), embeddings.shape, ScalarType::Float);
    auto places = from_blob(positions.data(), {count}, ScalarType::Long);
    return std::move(model_.run("text_decoder", {EValue(values), EValue(places)}).at(0));
  }

 private:
  Model& model_;
  int64_t room_;
  int64_t at_ = 0;
};

void keep(std::ofstream& out, const Values& values) {
  out.write(
      reinterpret_cast<const char*>(values.data.data()),
      static_cast<std::streamsize>(values.data.size() * sizeof(float)));
}

void run(const std::vector<std::string>& words) {
  const bool talks = !words.empty() && words[0] == "words";
  if (words.size() != (talks ? 6u : 4u) || (!talks && words[0] != "vision"))
    throw Failure{
        kUsage,
        "usage: face vision MODEL.pte CROP.rgb OUT.f32, or"
        " face words MODEL.pte CROP.rgb OUT.f32 QUESTION COUNT"};
  std::vector<int64_t> question, most;
  if (talks) question = whole_numbers(words[4]), most = whole_numbers(words[5]);
  if (talks && (most.size() != 1 || most[0] < 1))
    throw Failure{kUsage, "'" + words[5] + "': expected how many tokens are wanted"};

  auto crop = bytes_of(words[2]);
  Model model(words[1]);
  const std::string vision = talks ? "vision_encoder" : "forward";
  model.must_have({vision});
  if (talks) model.must_have({"token_embedding", "text_decoder"});
  const auto seen = see(model, vision, crop);

  std::vector<Values> logits;
  std::vector<int64_t> answer;
  if (talks) {
    const auto vocabulary = model.facts("get_vocab_size")[0];
    const auto ends = model.facts("get_eos_ids");
    for (auto token : question)
      if (token >= vocabulary)
        throw Failure{
            kInput,
            "token " + std::to_string(token) + " is not among the model's " +
                std::to_string(vocabulary)};
    Conversation conversation(model);
    conversation.read(model.facts("get_bos_id"));
    conversation.read(seen.at(0));
    for (auto next = conversation.read(question);; next = conversation.read({answer.back()})) {
      const auto best = std::max_element(next.data.begin(), next.data.end());
      answer.push_back(best - next.data.begin());
      logits.push_back(std::move(next));
      if (static_cast<int64_t>(answer.size()) == most[0] ||
          std::count(ends.begin(), ends.end(), answer.back()))
        break;
    }
  }

  std::ofstream out(words[3], std::ios::binary);
  for (const auto& values : seen) keep(out, values);
  for (const auto& values : logits) keep(out, values);
  out.close();
  if (!out) throw Failure{kInput, words[3] + ": cannot be written"};
  for (const auto& values : seen) std::printf("output %s\n", dimensions(values.shape).c_str());
  if (!talks) return;
  std::printf("logits %zu %zu\ntokens", logits.size(), logits.at(0).data.size());
  for (auto token : answer) std::printf(" %lld", static_cast<long long>(token));
  std::printf("\n");
}

// ExecuTorch tells each failure in several lines of its own; the program tells it in one.
void hush(
    et_timestamp_t, et_pal_log_level_t, const char*, const char*, size_t, const char*, size_t) {}

}  // namespace

int main(int count, char** words) {
  executorch::runtime::runtime_init();
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(hush, __FILE__));
  try {
    run({words + std::min(1, count), words + count});
    return 0;
  } catch (const Failure& failure) {
    std::fprintf(stderr, "face: %s\n", failure.text.c_str());
    return failure.code;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "face: %s\n", error.what());
    return 1;
  }
}
