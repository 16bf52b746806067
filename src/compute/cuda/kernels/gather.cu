// A training batch out of the ring: rows in any order, as they are and centred, with their squared norms. A warp a row.
struct GatherArgs {
  const u16* ring;
  const u32* slots;
  const float* shift;
  u16* x;
  u16* centered;
  float* squares;
  int n;
  int d;
  float scale;
};

KERNEL(batch_gather, GatherArgs, 256) {
  u32 row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x & 31, vectors = a.d / 8;
  if (row >= (u32)a.n) return;
  u64 from = (u64)a.slots[row] * vectors, to = (u64)row * vectors;
  float sum = 0.f;
  for (u32 i = lane; i < vectors; i += 32) {
    float x[8];
    load_8(a.ring, from + i, x);
#pragma unroll
    for (int j = 0; j < 8; j++) x[j] *= a.scale, sum = fmaf(x[j], x[j], sum);
    if (a.x) store_8(a.x, to + i, x);
    if (a.centered) {
#pragma unroll
      for (int j = 0; j < 8; j++) x[j] -= __ldg(a.shift + i * 8 + j);
      store_8(a.centered, to + i, x);
    }
  }
  sum = warp_sum(sum);
  if (a.squares && lane == 0) a.squares[row] = sum;
}
