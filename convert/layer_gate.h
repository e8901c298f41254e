// Lets one thread at a time convert a layer, so that images that share it and are converted side by side convert it
// once: who comes second waits, and finds the first one's result in the ConversionCache.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stop_token>
#include <string>

namespace banyan::convert {

// Internally synchronised. Passes may outlive the gate.
class LayerGate {
 public:
  // Held from the look into the cache until the result is in it, or the attempt has failed. May be released on any
  // thread. A holder never waits for another pass while its own depends on that wait: uploads, which release it, wait
  // for none.
  class Pass {
   public:
    ~Pass();
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;

   private:
    friend class LayerGate;
    struct State;
    Pass(std::shared_ptr<State> state, std::string key) : state_(std::move(state)), key_(std::move(key)) {}
    const std::shared_ptr<State> state_;
    const std::string key_;
  };

  LayerGate();
  // Blocks while another holds `key`. Null when stopped.
  std::shared_ptr<Pass> Enter(const std::string& key, std::stop_token stop);

 private:
  const std::shared_ptr<Pass::State> state_;
};

}  // namespace banyan::convert
