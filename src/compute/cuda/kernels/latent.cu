// Everything that belongs to one latent, by the block of that latent: over its entries (b, i) in order
//   g = scale <r_b, w_dec> + extra[b, i],  dW_dec += scale value r_b,  dW_enc += g x_b,  db += g
// and then, without a gradient in memory: the projection that keeps the decoder row's norm, Adam, the norm, bfloat16 copies.
// `latent_grad` writes (or adds) the gradients instead, `latent_apply` takes them from memory.
struct AdamRates {
  float learning_rate;
  float beta_1;
  float beta_2;
  float epsilon;
  float decay;
  float correct_1;
  float correct_2;
  float gradient_scale;
};

struct EntriesArgs {
  const u32* starts;
  const u32* places;
  const float* values;
  const float* extra;
  const u16* residual;
  const u16* x;
  int k;
  float scale;
};

struct WeightsArgs {
  float* w_enc;
  float* b_enc;
  float* w_dec;
  float* m_enc;
  float* m_bias;
  float* m_dec;
  float* v_enc;
  float* v_bias;
  float* v_dec;
  u16* copy_enc;
  u16* copy_dec;
  u32* idle;
  int d;
  int out;
  int rows;
  int project;
  int normalize;
};

struct LatentStepArgs {
  EntriesArgs entries;
  WeightsArgs weights;
  AdamRates adam;
};

struct LatentGradArgs {
  EntriesArgs entries;
  const float* w_dec;
  float* g_enc;
  float* g_bias;
  float* g_dec;
  int d;
  int out;
  int accumulate;
};

struct LatentApplyArgs {
  WeightsArgs weights;
  AdamRates adam;
  const float* g_enc;
  const float* g_bias;
  const float* g_dec;
};

DEVICE float adam(float w, float g, float* m, float* v, const AdamRates& r) {
  g *= r.gradient_scale;
  float first = r.beta_1 * *m + (1.f - r.beta_1) * g, second = r.beta_2 * *v + (1.f - r.beta_2) * g * g;
  *m = first;
  *v = second;
  return w * r.decay - r.learning_rate * (first * r.correct_1) / (sqrtf(second * r.correct_2) + r.epsilon);
}

// The sums over a latent's entries into shared rows, eight entries at a time: a warp a dot product, then every thread its columns.
// Returns the gradient of the bias, the same in all threads.
DEVICE float sum_entries(const EntriesArgs& e, const float* w_dec, float* g_enc, float* g_dec, int d, int out, float* gs, float* zs) {
  u32 lane = threadIdx.x & 31, warp = threadIdx.x / 32, begin = e.starts[blockIdx.x], end = e.starts[blockIdx.x + 1];
  for (int c = threadIdx.x; c < d; c += 256) g_enc[c] = 0.f;
  for (int c = threadIdx.x; c < out; c += 256) g_dec[c] = 0.f;
  __syncthreads();
  float bias = 0.f;
  for (u32 start = begin; start < end; start += 8) {
    u32 i = start + warp;
    if (i < end) {
      u32 place = e.places[i];
      float g = 0.f, value = e.values[place];
      if (e.scale != 0.f) {
        const u32* r = (const u32*)(e.residual + (u64)(place / e.k) * out);
        for (int c = lane; c < out / 2; c += 32) {
          u32 pair = __ldg(r + c);
          g = fmaf(bf16_low(pair), w_dec[2 * c], fmaf(bf16_high(pair), w_dec[2 * c + 1], g));
        }
        g = warp_sum(g) * e.scale;
      }
      if (e.extra) g += e.extra[place];
      if (lane == 0) gs[warp] = g, zs[warp] = value * e.scale;
    }
    __syncthreads();
    u32 count = min(8u, end - start);
    for (u32 j = 0; j < count; j++) {
      u64 row = e.places[start + j] / e.k;
      float g = gs[j], z = zs[j];
      bias += g;
      for (int c = threadIdx.x; c < d; c += 256) g_enc[c] = fmaf(g, bf16_float(e.x[row * d + c]), g_enc[c]);
      if (e.scale != 0.f) {
        for (int c = threadIdx.x; c < out; c += 256) g_dec[c] = fmaf(z, bf16_float(e.residual[row * out + c]), g_dec[c]);
      }
    }
    __syncthreads();
  }
  return bias;
}

// One update of a latent's weights from gradients in `g_enc` and `g_dec`; `w` is its decoder row. Each thread has its columns.
DEVICE void update(const WeightsArgs& t, const AdamRates& r, const float* w, const float* g_enc, const float* g_dec, float bias, float* scratch) {
  u64 enc = (u64)blockIdx.x * t.d, dec = (u64)blockIdx.x * t.out;
  float along = 0.f;
  if (t.project) {
    for (int c = threadIdx.x; c < t.out; c += 256) along = fmaf(g_dec[c], w[c], along);
    along = block_sum(along, scratch);
  }
  float square = 0.f;
  for (int c = threadIdx.x; c < t.out; c += 256) {
    float p = adam(w[c], g_dec[c] - along * w[c], t.m_dec + dec + c, t.v_dec + dec + c, r);
    t.w_dec[dec + c] = p;
    square = fmaf(p, p, square);
  }
  float factor = 1.f;
  if (t.normalize) factor = 1.f / fmaxf(sqrtf(block_sum(square, scratch)), 1e-8f);
  for (int c = threadIdx.x; c < t.out; c += 256) {
    float p = t.w_dec[dec + c] * factor;
    t.w_dec[dec + c] = p;
    t.copy_dec[dec + c] = float_bf16(p);
  }
  for (int c = threadIdx.x; c < t.d; c += 256) {
    float p = adam(t.w_enc[enc + c], g_enc[c], t.m_enc + enc + c, t.v_enc + enc + c, r);
    t.w_enc[enc + c] = p;
    t.copy_enc[enc + c] = float_bf16(p);
  }
  if (threadIdx.x == 0) {
    u32 i = blockIdx.x;
    t.b_enc[i] = adam(t.b_enc[i], bias, t.m_bias + i, t.v_bias + i, r);
  }
}

KERNEL(latent_step, LatentStepArgs, 256) {
  DYNAMIC_SHARED(float, shared);
  __shared__ float gs[8], zs[8], scratch[8];
  const WeightsArgs& t = a.weights;
  float *w = shared, *g_dec = w + t.out, *g_enc = g_dec + t.out;
  for (int c = threadIdx.x; c < t.out; c += 256) w[c] = t.w_dec[(u64)blockIdx.x * t.out + c];
  float bias = sum_entries(a.entries, w, g_enc, g_dec, t.d, t.out, gs, zs);
  update(t, a.adam, w, g_enc, g_dec, bias, scratch);
  if (t.idle && threadIdx.x == 0) {
    bool is_active = a.entries.starts[blockIdx.x] < a.entries.starts[blockIdx.x + 1];
    t.idle[blockIdx.x] = is_active ? 0 : t.idle[blockIdx.x] + t.rows;
  }
}

KERNEL(latent_grad, LatentGradArgs, 256) {
  DYNAMIC_SHARED(float, shared);
  __shared__ float gs[8], zs[8];
  float *w = shared, *g_dec = w + a.out, *g_enc = g_dec + a.out;
  u64 enc = (u64)blockIdx.x * a.d, dec = (u64)blockIdx.x * a.out;
  for (int c = threadIdx.x; c < a.out; c += 256) w[c] = a.w_dec[dec + c];
  float bias = sum_entries(a.entries, w, g_enc, g_dec, a.d, a.out, gs, zs);
  for (int c = threadIdx.x; c < a.d; c += 256) a.g_enc[enc + c] = a.accumulate ? a.g_enc[enc + c] + g_enc[c] : g_enc[c];
  for (int c = threadIdx.x; c < a.out; c += 256) a.g_dec[dec + c] = a.accumulate ? a.g_dec[dec + c] + g_dec[c] : g_dec[c];
  if (threadIdx.x == 0) a.g_bias[blockIdx.x] = a.accumulate ? a.g_bias[blockIdx.x] + bias : bias;
}

KERNEL(latent_apply, LatentApplyArgs, 256) {
  DYNAMIC_SHARED(float, w);
  __shared__ float scratch[8];
  const WeightsArgs& t = a.weights;
  u64 enc = (u64)blockIdx.x * t.d, dec = (u64)blockIdx.x * t.out;
  for (int c = threadIdx.x; c < t.out; c += 256) w[c] = t.w_dec[dec + c];
  update(t, a.adam, w, a.g_enc + enc, a.g_dec + dec, a.g_bias[blockIdx.x], scratch);
}
