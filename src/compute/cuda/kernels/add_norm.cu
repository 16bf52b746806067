// The residual stream takes what a block adds and is normed for the next: a block a row, the row in shared memory as
// floats between the passes. Each thread comes back to its own columns only, so there are no barriers but those of the sums.
struct AddNormArgs {
  u16* residual;
  const u16* delta_a;
  const u16* delta_b;
  const float* post_weight;
  const float* weight_a;
  const float* bias_a;
  u16* y_a;
  const float* weight_b;
  const float* bias_b;
  u16* y_b;
  float* scale;
  int d;
  float eps;
  int is_layer;
  float weight_offset;
};

// y = (x - mean) * factor * (weight + offset) + bias for one vector.
DEVICE void norm_vector(const float* x, float mean, float factor, const float* weight, float offset, const float* bias, u32 i, float (&y)[8]) {
#pragma unroll
  for (int j = 0; j < 8; j++) {
    y[j] = (x[j] - mean) * factor;
    if (weight) y[j] *= __ldg(weight + i * 8 + j) + offset;
    if (bias) y[j] += __ldg(bias + i * 8 + j);
  }
}

KERNEL(add_norm, AddNormArgs, 256) {
  DYNAMIC_SHARED(float, x);
  __shared__ float scratch[8];
  u32 vectors = a.d / 8;
  u64 row = (u64)blockIdx.x * vectors;
  float post = 0.f;
  if (a.post_weight) {  // the first delta is normed by itself before it is added
    float sum = 0.f;
    for (u32 i = threadIdx.x; i < vectors; i += 256) {
      float v[8];
      load_8(a.delta_a, row + i, v);
#pragma unroll
      for (int j = 0; j < 8; j++) sum = fmaf(v[j], v[j], sum);
    }
    post = 1.f / sqrtf(block_sum(sum, scratch) / a.d + a.eps);
  }
  float sum = 0.f;
  for (u32 i = threadIdx.x; i < vectors; i += 256) {
    float v[8], more[8];
    unpack_8(((const uint4*)a.residual)[row + i], v);
    if (a.delta_a) {
      load_8(a.delta_a, row + i, more);
      if (a.post_weight) {
        float normed[8];
        norm_vector(more, 0.f, post, a.post_weight, a.weight_offset, 0, i, normed);
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] += normed[j];
      } else {
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] += more[j];
      }
    }
    if (a.delta_b) {
      load_8(a.delta_b, row + i, more);
#pragma unroll
      for (int j = 0; j < 8; j++) v[j] += more[j];
    }
    uint4 rounded = pack_8(v);  // the norm is of the stream as it is stored
    if (a.delta_a || a.delta_b) ((uint4*)a.residual)[row + i] = rounded;
    unpack_8(rounded, v);
#pragma unroll
    for (int j = 0; j < 8; j++) x[i * 8 + j] = v[j], sum += a.is_layer ? v[j] : v[j] * v[j];
  }
  sum = block_sum(sum, scratch) / a.d;
  float mean = a.is_layer ? sum : 0.f, square = sum;
  if (a.is_layer) {
    float about = 0.f;
    for (u32 i = threadIdx.x; i < vectors; i += 256) {
#pragma unroll
      for (int j = 0; j < 8; j++) about = fmaf(x[i * 8 + j] - mean, x[i * 8 + j] - mean, about);
    }
    square = block_sum(about, scratch) / a.d;
  }
  float divisor = sqrtf(square + a.eps), factor = 1.f / divisor;
  if (a.scale && threadIdx.x == 0) a.scale[blockIdx.x] = divisor;
  for (u32 i = threadIdx.x; i < vectors; i += 256) {
    float y[8];
    if (a.y_a) {
      norm_vector(x + i * 8, mean, factor, a.weight_a, a.weight_offset, a.bias_a, i, y);
      store_8(a.y_a, row + i, y);
    }
    if (a.y_b) {
      norm_vector(x + i * 8, mean, factor, a.weight_b, a.weight_offset, a.bias_b, i, y);
      store_8(a.y_b, row + i, y);
    }
  }
}
