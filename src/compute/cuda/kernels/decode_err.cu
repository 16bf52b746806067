// What a code leaves of its target: r = target - bias - sum of value times decoder row, and the squared norms of r. A block a row,
// eight columns a thread. The entries stand in ascending order of their latents, so the residuals of nested coders
// (the first borders[0] latents, the first borders[1], ...) come out of one walk over them.
struct DecodeArgs {
  const u32* latents;
  const float* values;
  const u16* w_dec;
  const float* bias;
  const u16* target;
  const u32* borders;
  u16* residual;
  float* loss;
  int n;
  int d;
  int k;
  int groups;
};

KERNEL(decode_err, DecodeArgs, 128) {
  __shared__ float scratch[4];
  u32 row = blockIdx.x, vectors = a.d / 8;
  const u32* latents = a.latents + (u64)row * a.k;
  const float* values = a.values + (u64)row * a.k;
  for (u32 start = 0; start < vectors; start += 128) {
    u32 i = start + threadIdx.x;
    bool is_there = i < vectors;
    float r[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    if (is_there) {
      load_8(a.target, (u64)row * vectors + i, r);
      if (a.bias) {
#pragma unroll
        for (int j = 0; j < 8; j++) r[j] -= __ldg(a.bias + i * 8 + j);
      }
    }
    int entry = 0;
    for (int group = 0; group < a.groups; group++) {
      u32 border = a.borders[group];
      for (; entry < a.k; entry++) {
        u32 latent = __ldg(latents + entry);
        if (latent >= border) break;  // NO_LATENT too: it is above every border
        float value = __ldg(values + entry);
        if (!is_there) continue;
        float w[8];
        load_8(a.w_dec, (u64)latent * vectors + i, w);
#pragma unroll
        for (int j = 0; j < 8; j++) r[j] = fmaf(-value, w[j], r[j]);
      }
      float sum = 0.f;
#pragma unroll
      for (int j = 0; j < 8; j++) sum = fmaf(r[j], r[j], sum);
      sum = block_sum(sum, scratch);
      u64 at = (u64)group * a.n + row;
      if (is_there) store_8(a.residual, at * vectors + i, r);
      if (threadIdx.x == 0) a.loss[at] = start ? a.loss[at] + sum : sum;
    }
  }
}
