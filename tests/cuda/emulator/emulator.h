// CUDA's words for a C++ compiler, so that the kernels' own source runs on the host. Every thread of a block is a fiber: barriers and
// what a warp does together hand over to a scheduler, which picks the next fiber by a seed. A barrier that is missing shows as a
// result that depends on the seed, or as the poison that shared memory is filled with before each block.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define EMULATED 1
#define __device__
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
// all shared variables lie in one section, which is poisoned as a whole
#define __shared__ static __attribute__((section("emulated_shared")))
#define DEVICE static inline
#define DYNAMIC_SHARED(T, name) T* name = (T*)emulator::dynamic_shared()
#define KERNEL(name, Args, threads)                                                                             \
  static void name(const Args& a);                                                                              \
  static void name##_call(const void* args) { name(*(const Args*)args); }                                       \
  static emulator::Registration name##_registration(#name, name##_call, sizeof(Args), alignof(Args), threads);   \
  static void name(const Args& a)

struct Index { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulator {
// What a warp does together.
enum class Warp { none, shuffle, ballot, sync, multiply, load };

// A thread of the block that runs.
struct Thread {
  Index id;
  void* stack_pointer;
  enum { ready, at_barrier, at_warp, done } state;
  Warp op;
  unsigned lane;
  uint64_t value;      // what it brings to a shuffle or a ballot, and what it takes away
  unsigned source;     // the lane it wants the value of
  const void* first;   // fragments of a product, or the address of a matrix row
  const void* second;
  void* result;
  int matrices;
  bool is_transposed;
};

struct Registration { Registration(const char* name, void (*call)(const void*), size_t size, size_t align, unsigned threads); };

extern Thread* current;
extern Index block, grid, block_size;
void* dynamic_shared();
void wait_for_block();
void wait_for_warp(Warp op);
[[noreturn]] void fail(const char* what);

template <class T> T shuffled(T value, unsigned source) {
  current->value = 0;
  memcpy(&current->value, &value, sizeof value);
  current->source = source;
  wait_for_warp(Warp::shuffle);
  memcpy(&value, &current->value, sizeof value);
  return value;
}
inline void check_mask(unsigned mask) { if (mask != 0xffffffffu) fail("a warp op without all lanes"); }
}  // namespace emulator

#define threadIdx (emulator::current->id)
#define blockIdx emulator::block
#define blockDim emulator::block_size
#define gridDim emulator::grid

inline void __syncthreads() { emulator::wait_for_block(); }
inline void __syncwarp() { emulator::wait_for_warp(emulator::Warp::sync); }
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits) {
  emulator::check_mask(mask);
  return emulator::shuffled(v, emulator::current->lane ^ bits);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, int by) {
  emulator::check_mask(mask);
  unsigned lane = emulator::current->lane;
  return emulator::shuffled(v, lane < (unsigned)by ? lane : lane - by);
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
  emulator::check_mask(mask);
  emulator::current->value = vote;
  emulator::wait_for_warp(emulator::Warp::ballot);
  return (unsigned)emulator::current->value;
}
template <class T> T __ldg(const T* p) { return *p; }
// fibers are not interrupted, so plain code is atomic
inline unsigned atomicAdd(unsigned* p, unsigned v) { unsigned old = *p; *p = old + v; return old; }
inline unsigned atomicOr(unsigned* p, unsigned v) { unsigned old = *p; *p = old | v; return old; }

inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
inline int __popc(unsigned u) { return __builtin_popcount(u); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
using std::max;
using std::min;

inline unsigned rounded_bf16(float f) {
  unsigned u = __float_as_uint(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
  return (u + 0x7fffu + (u >> 16 & 1)) >> 16;
}
inline unsigned bf16_pair(float low, float high) { return rounded_bf16(low) | rounded_bf16(high) << 16; }
inline void mma_16x8x16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulator::current->first = a, emulator::current->second = b, emulator::current->result = c;
  emulator::wait_for_warp(emulator::Warp::multiply);
}
inline void load_matrices(void* r, const void* row, int matrices, bool is_transposed) {
  emulator::current->first = row, emulator::current->result = r;
  emulator::current->matrices = matrices, emulator::current->is_transposed = is_transposed;
  emulator::wait_for_warp(emulator::Warp::load);
}
inline void load_matrices_4(unsigned (&r)[4], const void* row) { load_matrices(r, row, 4, false); }
inline void load_matrices_2(unsigned (&r)[2], const void* row) { load_matrices(r, row, 2, false); }
inline void load_matrices_2_transposed(unsigned (&r)[2], const void* row) { load_matrices(r, row, 2, true); }
// the bytes arrive only when they are waited for, as on a device
void copy_16_async(void* to, const void* from, bool is_there);
void wait_for_copies();
