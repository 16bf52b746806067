// Rows out of a batch and back into it. `capture_store` scatters the kept rows of a site into the slots of a ring (the scatter is
// the shuffle), `splice` puts other rows into a site: a warp a row in both. Bound by memory.
struct CaptureArgs {
  const u16* x;
  const u32* rows;
  const u32* slots;
  u16* ring_bf16;
  float* ring_float;
  float* squares;
  int n;
  int width;
  int stride;
  int column;
};

KERNEL(capture_store, CaptureArgs, 256) {
  u32 item = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x & 31;
  if (item >= (u32)a.n) return;
  u32 slot = a.slots ? a.slots[item] : item, vectors = a.width / 8;
  if (slot == 0xffffffffu) return;  // dropped: the slot of nobody
  const u16* from = a.x + (u64)a.rows[item] * a.stride + a.column;
  float sum = 0.f;
  for (u32 i = lane; i < vectors; i += 32) {
    float x[8];
    uint4 v = __ldg((const uint4*)from + i);
    unpack_8(v, x);
#pragma unroll
    for (int j = 0; j < 8; j++) sum = fmaf(x[j], x[j], sum);
    if (a.ring_bf16) ((uint4*)a.ring_bf16)[(u64)slot * vectors + i] = v;
    if (a.ring_float) {
      float4* to = (float4*)a.ring_float + ((u64)slot * vectors + i) * 2;
      to[0] = make_float4(x[0], x[1], x[2], x[3]);
      to[1] = make_float4(x[4], x[5], x[6], x[7]);
    }
  }
  sum = warp_sum(sum);
  if (a.squares && lane == 0) a.squares[slot] = sum;
}

struct SpliceArgs {
  u16* x;
  const u32* rows;
  const u16* replacement;
  const u16* fill;
  int n;
  int width;
  int stride;
  int column;
};

KERNEL(splice, SpliceArgs, 256) {
  u32 item = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x & 31, vectors = a.width / 8;
  if (item >= (u32)a.n) return;
  uint4* to = (uint4*)(a.x + (u64)a.rows[item] * a.stride + a.column);
  for (u32 i = lane; i < vectors; i += 32) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if (a.replacement) v = __ldg((const uint4*)a.replacement + (u64)item * vectors + i);
    else if (a.fill) v = __ldg((const uint4*)a.fill + i);
    to[i] = v;
  }
}
