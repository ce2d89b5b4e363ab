// Calls compiled graphs in turn, again and again: see loops.py, which writes what this reads.

#include <c10/core/CPUAllocator.h>
#include <c10/core/TensorImpl.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <vector>

struct AtenTensorOpaque;
using Tensor = AtenTensorOpaque*;
using Program = void (*)(Tensor* inputs, Tensor* outputs);  // takes the inputs over, and leaves the outputs to us

extern "C" {  // of torch's C interface, which says of each whether it failed
int32_t aoti_torch_new_tensor_handle(Tensor, Tensor*);
int32_t aoti_torch_delete_tensor_object(Tensor);
int32_t aoti_torch_get_dim(Tensor, int64_t*);
int32_t aoti_torch_get_sizes(Tensor, int64_t**);
int32_t aoti_torch_get_strides(Tensor, int64_t**);
int32_t aoti_torch__reinterpret_tensor(Tensor, int64_t, const int64_t*, const int64_t*, int64_t, Tensor*);
}

namespace {

// What graphs of a loop free is kept for the next tensor that is nearly as large, until the loop is over: the system's
// allocator, asked for memory on the bounds of cache lines, takes longer than many a fused loop.
//
// While loops run, torch's allocator is ours. On other threads, and for what outlives the loop, it passes on to the one
// that was there before.
class Recycled {
 public:
  Recycled() : outer(current) {
    if (loops++ == 0) {  // the interpreter's lock is held
      allocator.system = c10::GetCPUAllocator();
      c10::SetCPUAllocator(&allocator);
    }
    current = this;
  }
  ~Recycled() {
    current = outer;
    if (--loops == 0) c10::SetCPUAllocator(allocator.system);
    for (auto& blocks : kept)
      for (void* block : blocks) release(block);
  }

 private:
  struct Header {  // before the memory that is given out
    int kind;
    c10::Allocator* system;
  };
  static constexpr size_t ROOM = 64;  // which keeps torch's alignment
  static constexpr int KINDS = 64;

  struct Allocator final : c10::Allocator {
    c10::Allocator* system = nullptr;

    c10::DataPtr allocate(size_t bytes) override {
      void* block = bytes ? take(bytes) : nullptr;
      return {block, block, &give_back, c10::Device(c10::DeviceType::CPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
    void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
  };

  static void* take(size_t bytes) {
    int kind = 0;
    if (current) {  // of a power of two, for the next that is nearly as large
      while ((size_t(1) << kind) < bytes) ++kind;
      bytes = size_t(1) << kind;
      auto& blocks = current->kept[kind];
      if (!blocks.empty()) {
        void* block = blocks.back();
        blocks.pop_back();
        return block;
      }
    }
    void* memory = allocator.system->raw_allocate(ROOM + bytes);
    *static_cast<Header*>(memory) = {current ? kind : -1, allocator.system};
    return static_cast<char*>(memory) + ROOM;
  }
  static Header* header(void* block) { return reinterpret_cast<Header*>(static_cast<char*>(block) - ROOM); }
  static void release(void* block) { header(block)->system->raw_deallocate(header(block)); }
  static void give_back(void* block) {
    if (!block) return;
    if (current && header(block)->kind >= 0) current->kept[header(block)->kind].push_back(block);
    else release(block);
  }

  std::array<std::vector<void*>, KINDS> kept;
  Recycled* outer;

  static thread_local Recycled* current;  // of the loop that the thread is in
  static int loops;
  static Allocator allocator;
};
thread_local Recycled* Recycled::current = nullptr;
int Recycled::loops = 0;
Recycled::Allocator Recycled::allocator;

enum Step : int64_t { CALL, TAKE };

void check(int32_t failed) {
  if (failed) throw std::runtime_error("torch refused a tensor");
}

// What is behind a handle, which points to one pointer.
c10::TensorImpl* inside(Tensor tensor) { return *reinterpret_cast<c10::TensorImpl**>(tensor); }

bool is_ours_alone(Tensor tensor) { return c10::raw::intrusive_ptr::use_count(inside(tensor)) == 1; }

// Tensors by number, each of them ours until it is released or replaced.
struct Slots {
  std::vector<Tensor> held;

  Slots(Tensor* given, int64_t count) : held(given, given + count) {}
  ~Slots() {
    for (Tensor each : held)
      if (each) aoti_torch_delete_tensor_object(each);
  }
  void put(int64_t slot, Tensor tensor) {
    if (held[slot]) aoti_torch_delete_tensor_object(held[slot]);
    held[slot] = tensor;
  }
  Tensor release(int64_t slot) {
    Tensor tensor = held[slot];
    held[slot] = nullptr;
    return tensor;
  }
};

const int64_t* call(const int64_t* at, Slots& slots) {
  const auto program = reinterpret_cast<Program>(at[0]);
  const int64_t takes = at[1], gives = at[2];
  at += 3;
  std::vector<Tensor> inputs(takes), outputs(gives);
  for (int64_t i = 0; i < takes; ++i) check(aoti_torch_new_tensor_handle(slots.held[at[i]], &inputs[i]));
  program(inputs.data(), outputs.data());
  at += takes;
  for (int64_t i = 0; i < gives; ++i) {
    if (!outputs[i]) throw std::runtime_error("a graph left an output out");  // Python that it called may have raised
    Tensor ours = outputs[i];
    for (int64_t j = 0; j < i; ++j) {  // a tensor that is returned twice has one handle, and each slot needs its own
      if (outputs[j] != outputs[i]) continue;
      check(aoti_torch_new_tensor_handle(outputs[i], &ours));
      break;
    }
    slots.put(at[i], ours);
  }
  return at + gives;
}

// row = column[turn + ahead]
const int64_t* take(const int64_t* at, Slots& slots, int64_t turn) {
  const Tensor column = slots.held[at[0]];
  int64_t dimensions, *sizes, *strides;
  check(aoti_torch_get_dim(column, &dimensions));
  check(aoti_torch_get_sizes(column, &sizes));
  check(aoti_torch_get_strides(column, &strides));
  const int64_t offset = (turn + at[2]) * strides[0];  // from where the column begins
  Tensor& row = slots.held[at[1]];
  if (turn > 0 && is_ours_alone(row)) {  // the row of the turn before moves on: to make one takes ten times as long
    inside(row)->set_storage_offset(inside(column)->storage_offset() + offset);
  } else {
    Tensor made;
    check(aoti_torch__reinterpret_tensor(column, dimensions - 1, sizes + 1, strides + 1, offset, &made));
    slots.put(at[1], made);
  }
  return at + 3;
}

}  // namespace

// Takes over `count` tensors, of which some may be null yet, takes the steps of `code` so many times, and leaves those
// of the slots `returned` in `found`, for the caller to take over.
// Returns whether it failed, and why in `message`. The interpreter's lock is held: graphs release it.
extern "C" int32_t repeat(const int64_t* code, int64_t length, int64_t times, Tensor* given, int64_t count,
                          const int64_t* returned, int64_t wanted, Tensor* found, char* message, int64_t room) {
  Recycled memory;
  Slots slots(given, count);
  try {
    for (int64_t turn = 0; turn < times; ++turn) {
      for (const int64_t* at = code; at != code + length;) {
        switch (*at++) {
          case CALL: at = call(at, slots); break;
          case TAKE: at = take(at, slots, turn); break;
        }
      }
    }
    for (int64_t i = 0; i < wanted; ++i) found[i] = slots.release(returned[i]);
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(message, room, "%s", error.what());
  } catch (...) {
    std::snprintf(message, room, "something was thrown that is no exception");
  }
  return 1;
}
