// Sums of buffers, eight numbers a thread; and the scores and patterns of attention, which are only computed for those who look at
// them: a warp a head of a row, a lane a key.
struct CombineArgs {
  u16* x;
  const u16* y;
  u64 len;
  float factor;
};

struct AttentionMapsArgs {
  const u16* q;
  const u16* k;
  const float* lse;
  const u32* starts;
  const u32* columns;
  u16* scores;
  u16* pattern;
  int n;
  int heads;
  int kv_heads;
  int e;
  int context;
  float scale;
  float softcap;
  int window;
};

KERNEL(combine, CombineArgs, 256) {
  u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i >= a.len / 8) return;
  float x[8], y[8];
  unpack_8(((const uint4*)a.x)[i], x);
  if (a.y) load_8(a.y, i, y);
#pragma unroll
  for (int j = 0; j < 8; j++) x[j] = a.y ? fmaf(a.factor, x[j], y[j]) : a.factor * x[j];
  store_8(a.x, i, x);
}

KERNEL(attention_maps, AttentionMapsArgs, 256) {
  u64 item = (u64)blockIdx.x * 8 + threadIdx.x / 32;
  if (item >= (u64)a.n * a.heads) return;
  int row = (int)(item / a.heads), head = (int)(item % a.heads), start = (int)a.starts[row], column = (int)a.columns[row];
  int from = a.window > 0 ? max(start, row - a.window + 1) : start;
  const u16* q = a.q + item * a.e;
  float lse = a.lse[item];
  for (int c = threadIdx.x & 31; c < a.context; c += 32) {
    int key = start + c - column;
    float score = 0.f, share = 0.f;
    if (c >= column && key >= from && key <= row) {
      const u16* k = a.k + ((u64)key * a.kv_heads + head / (a.heads / a.kv_heads)) * a.e;
      for (int p = 0; p < a.e / 8; p++) {
        float u[8], v[8];
        load_8(q, p, u);
        load_8(k, p, v);
#pragma unroll
        for (int j = 0; j < 8; j++) score = fmaf(u[j], v[j], score);
      }
      score *= a.scale;
      if (a.softcap > 0.f) score = a.softcap * tanhf(score / a.softcap);
      share = __expf(score - lse);
    }
    u64 at = item * a.context + c;
    if (a.scores) a.scores[at] = float_bf16(score);
    if (a.pattern) a.pattern[at] = float_bf16(share);
  }
}
