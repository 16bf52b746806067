// Rotary embedding in place, after an optional RMS norm of each head: a warp a head of a row. Lane l has the pairs (j, j + r/2)
// with j = l mod 32, so nobody reads what another lane writes.
struct RopeArgs {
  u16* x;
  const u32* positions;
  const float* cos;
  const float* sin;
  const u16* norm_weight;
  int n;
  int heads;
  int e;
  int rotary;
  int stride;
  float eps;
  float weight_offset;
};

KERNEL(rope, RopeArgs, 256) {
  u64 item = (u64)blockIdx.x * 8 + threadIdx.x / 32;
  int lane = threadIdx.x & 31, half = a.rotary / 2;
  if (item >= (u64)a.n * a.heads) return;
  u64 row = item / a.heads;
  u16* x = a.x + row * a.stride + (item % a.heads) * a.e;
  const float *cos = a.cos + (u64)a.positions[row] * half, *sin = a.sin + (u64)a.positions[row] * half;
  const u16* weight = a.norm_weight;
  float factor = 1.f;
  if (weight) {
    float sum = 0.f;
    for (int j = lane; j < a.e; j += 32) sum = fmaf(bf16_float(x[j]), bf16_float(x[j]), sum);
    factor = 1.f / sqrtf(warp_sum(sum) / a.e + a.eps);
  }
  for (int j = lane; j < half; j += 32) {
    float p = bf16_float(x[j]), q = bf16_float(x[j + half]), c = __ldg(cos + j), s = __ldg(sin + j);
    if (weight) {
      p *= factor * (bf16_float(weight[j]) + a.weight_offset);
      q *= factor * (bf16_float(weight[j + half]) + a.weight_offset);
    }
    x[j] = float_bf16(p * c - q * s);
    x[j + half] = float_bf16(q * c + p * s);
  }
  if (weight) {
    for (int j = a.rotary + lane; j < a.e; j += 32) {
      x[j] = float_bf16(bf16_float(x[j]) * factor * (bf16_float(weight[j]) + a.weight_offset));
    }
  }
}
