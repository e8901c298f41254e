#include "convert/layer_gate.h"

#include <utility>

namespace banyan::convert {

struct LayerGate::Pass::State {
  std::mutex mutex;
  std::condition_variable_any changed;
  std::set<std::string> held;  // guarded by mutex
};

LayerGate::Pass::~Pass() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->held.erase(key_);
  }
  state_->changed.notify_all();
}

LayerGate::LayerGate() : state_(std::make_shared<Pass::State>()) {}

std::shared_ptr<LayerGate::Pass> LayerGate::Enter(const std::string& key, std::stop_token stop) {
  std::unique_lock lock(state_->mutex);
  const bool free = state_->changed.wait(lock, std::move(stop), [&] { return !state_->held.contains(key); });
  if (!free) return nullptr;
  state_->held.insert(key);
  return std::shared_ptr<Pass>(new Pass(state_, key));
}

}  // namespace banyan::convert
