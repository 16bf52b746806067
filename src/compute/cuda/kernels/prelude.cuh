// What every kernel may use. Compiled by NVRTC for devices and, with EMULATED defined, by a C++ compiler for the emulator of the
// tests, which provides CUDA's words itself. No CUDA header is needed: bf16 numbers are their bits, and PTX stands here only.
#pragma once
#ifndef EMULATED
#pragma nv_diag_suppress 177  // what one kernel does not use another does
#endif
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define ALL_LANES 0xffffffffu
#define NO_LATENT 0xffffffffu
#define INFINITE __uint_as_float(0x7f800000u)

#ifndef EMULATED
#define DEVICE static __device__ __forceinline__
// A kernel takes one argument, a struct that Rust declares too, and blocks of `threads` in a row.
#define KERNEL(name, Args, threads) \
  extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Args a)
// Shared memory whose size the launch gives.
#define DYNAMIC_SHARED(T, name) extern __shared__ __align__(1024) u8 dynamic_shared_##name[]; T* name = (T*)dynamic_shared_##name

// Two numbers, rounded to nearest even: `low` in the low half.
DEVICE u32 bf16_pair(float low, float high) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// c += a b on tensor cores: a is 16 x 16, b 16 x 8, c 16 x 8, in the fragments of mma.m16n8k16.
DEVICE void mma_16x8x16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices of shared memory as fragments; lane l gives the address of row l % 8 of matrix l / 8.
DEVICE void load_matrices_4(u32 (&r)[4], const void* row) {
  u32 at = (u32)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// Two of them; the addresses of lanes above 15 do not matter but must be valid.
DEVICE void load_matrices_2(u32 (&r)[2], const void* row) {
  u32 at = (u32)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
}

// Two of them, each transposed.
DEVICE void load_matrices_2_transposed(u32 (&r)[2], const void* row) {
  u32 at = (u32)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
}

// Start to copy 16 bytes into shared memory, or zeros.
DEVICE void copy_16_async(void* to, const void* from, bool is_there) {
  u32 at = (u32)__cvta_generic_to_shared(to);
  int bytes = is_there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
}

// Wait for this thread's copies; a barrier must follow before other threads' are read.
DEVICE void wait_for_copies() { asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory"); }
#endif

DEVICE float bf16_low(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float bf16_high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
DEVICE float bf16_float(u16 bits) { return __uint_as_float((u32)bits << 16); }
DEVICE u16 float_bf16(float x) { return (u16)bf16_pair(x, 0.f); }

// Eight bf16 numbers as floats, and back.
DEVICE void unpack_8(uint4 v, float (&x)[8]) {
  x[0] = bf16_low(v.x), x[1] = bf16_high(v.x), x[2] = bf16_low(v.y), x[3] = bf16_high(v.y);
  x[4] = bf16_low(v.z), x[5] = bf16_high(v.z), x[6] = bf16_low(v.w), x[7] = bf16_high(v.w);
}
DEVICE uint4 pack_8(const float (&x)[8]) {
  return make_uint4(bf16_pair(x[0], x[1]), bf16_pair(x[2], x[3]), bf16_pair(x[4], x[5]), bf16_pair(x[6], x[7]));
}
// Vector `i` (of eight) of an array whose address and rows are multiples of 16 bytes.
DEVICE void load_8(const u16* x, u64 i, float (&out)[8]) { unpack_8(__ldg((const uint4*)x + i), out); }
DEVICE void store_8(u16* x, u64 i, const float (&v)[8]) { ((uint4*)x)[i] = pack_8(v); }

DEVICE float warp_sum(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(ALL_LANES, v, o);
  return v;
}
DEVICE float warp_max(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, o));
  return v;
}
// Sum over the lanes up to this one.
DEVICE u32 warp_prefix(u32 v) {
#pragma unroll
  for (int o = 1; o < 32; o <<= 1) {
    u32 below = __shfl_up_sync(ALL_LANES, v, o);
    if ((threadIdx.x & 31) >= (u32)o) v += below;
  }
  return v;
}
// The sum over the block, in the same order every time; all threads get it. `scratch` holds a float a warp.
DEVICE float block_sum(float v, float* scratch) {
  v = warp_sum(v);
  __syncthreads();  // whoever used the scratch before is done
  if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = v;
  __syncthreads();
  float sum = 0.f;
  for (u32 i = 0; i < blockDim.x / 32; i++) sum += scratch[i];
  return sum;
}
