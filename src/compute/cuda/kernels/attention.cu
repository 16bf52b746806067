// Causal attention without the matrix of scores (the online softmax of FlashAttention 2): a block has 64 query rows of one head, a
// warp 16 of them, and walks over the keys in tiles. Row i sees the keys max(starts[i], i - window + 1) ..= i; `starts` does not
// decrease, so documents of a packed batch do not see each other. Heads narrower than the variant are filled up with zeros.
struct AttentionArgs {
  const u16* q;
  const u16* k;
  const u16* v;
  u16* z;
  float* lse;
  const u32* starts;
  int n;
  int heads;
  int kv_heads;
  int e;
  int q_stride;
  int kv_stride;
  float scale;
  float softcap;
  int window;
};

// 64 rows of a head into shared memory, zeros behind the last row and column.
template <int E, int ROWS>
DEVICE void load_tile(u16* to, const u16* from, int first, int n, int stride, int e) {
  for (int i = threadIdx.x; i < ROWS * (E / 8); i += 128) {
    int r = i / (E / 8), c = i % (E / 8) * 8;
    bool is_there = first + r < n && c < e;
    copy_16_async(to + r * (E + 8) + c, is_there ? from + (u64)(first + r) * stride + c : from, is_there);
  }
}

template <int E, int KEYS>
DEVICE void attention(const AttentionArgs& a) {
  constexpr int ROW = E + 8;  // eight rows of a matrix then lie in different banks
  DYNAMIC_SHARED(u16, shared);
  u16 *sq = shared, *sk = sq + 64 * ROW, *sv = sk + KEYS * ROW;
  int lane = threadIdx.x & 31, warp = threadIdx.x / 32, head = blockIdx.y, kv_head = head / (a.heads / a.kv_heads);
  int first = blockIdx.x * 64;
  const u16 *k = a.k + (u64)kv_head * a.e, *v = a.v + (u64)kv_head * a.e;
  load_tile<E, 64>(sq, a.q + (u64)head * a.e, first, a.n, a.q_stride, a.e);

  float z[E / 8][4], most[2] = {-INFINITE, -INFINITE}, sum[2] = {0.f, 0.f};
#pragma unroll
  for (int i = 0; i < E / 8; i++) z[i][0] = z[i][1] = z[i][2] = z[i][3] = 0.f;
  // a fragment of scores has two rows of a lane: `row[0]` and eight below it
  int row[2], from[2];
#pragma unroll
  for (int r = 0; r < 2; r++) {
    row[r] = first + warp * 16 + lane / 4 + r * 8;
    from[r] = row[r] < a.n ? (int)a.starts[row[r]] : 0x7fffffff;
    if (a.window > 0) from[r] = max(from[r], row[r] - a.window + 1);
  }
  int begin = (int)a.starts[first];
  if (a.window > 0) begin = max(begin, first - a.window + 1);
  int end = min(first + 64, a.n);
  for (int key = begin / KEYS * KEYS; key < end; key += KEYS) {
    __syncthreads();  // the last tile has been used
    load_tile<E, KEYS>(sk, k, key, a.n, a.kv_stride, a.e);
    load_tile<E, KEYS>(sv, v, key, a.n, a.kv_stride, a.e);
    wait_for_copies();
    __syncthreads();
    float s[KEYS / 8][4];
#pragma unroll
    for (int i = 0; i < KEYS / 8; i++) s[i][0] = s[i][1] = s[i][2] = s[i][3] = 0.f;
#pragma unroll
    for (int c = 0; c < E; c += 16) {
      u32 fq[4], fk[2];
      load_matrices_4(fq, sq + (warp * 16 + (lane & 15)) * ROW + c + lane / 16 * 8);
#pragma unroll
      for (int i = 0; i < KEYS / 8; i++) {
        load_matrices_2(fk, sk + (i * 8 + (lane & 7)) * ROW + c + (lane / 8 & 1) * 8);
        mma_16x8x16(s[i], fq, fk);
      }
    }
    float now[2] = {-INFINITE, -INFINITE};
#pragma unroll
    for (int i = 0; i < KEYS / 8; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int column = key + i * 8 + (lane & 3) * 2 + (j & 1), r = j / 2;
        float x = s[i][j] * a.scale;
        if (a.softcap > 0.f) x = a.softcap * tanhf(x / a.softcap);
        s[i][j] = column >= from[r] && column <= row[r] ? x : -INFINITE;
        now[r] = fmaxf(now[r], s[i][j]);
      }
    }
    float keep[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {  // the four lanes of a row agree on its maximum
      now[r] = fmaxf(now[r], __shfl_xor_sync(ALL_LANES, now[r], 1));
      now[r] = fmaxf(now[r], __shfl_xor_sync(ALL_LANES, now[r], 2));
      now[r] = fmaxf(now[r], most[r]);
      keep[r] = now[r] == -INFINITE ? 1.f : __expf(most[r] - now[r]);
      most[r] = now[r];
      sum[r] *= keep[r];
    }
#pragma unroll
    for (int i = 0; i < KEYS / 8; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        s[i][j] = s[i][j] == -INFINITE ? 0.f : __expf(s[i][j] - most[j / 2]);
        sum[j / 2] += s[i][j];
      }
    }
#pragma unroll
    for (int i = 0; i < E / 8; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++) z[i][j] *= keep[j / 2];
    }
#pragma unroll
    for (int p = 0; p < KEYS / 16; p++) {  // the scores' fragments are those of the left factor
      u32 fp[4] = {bf16_pair(s[2 * p][0], s[2 * p][1]), bf16_pair(s[2 * p][2], s[2 * p][3]),
                   bf16_pair(s[2 * p + 1][0], s[2 * p + 1][1]), bf16_pair(s[2 * p + 1][2], s[2 * p + 1][3])};
#pragma unroll
      for (int i = 0; i < E / 8; i++) {
        u32 fv[2];
        load_matrices_2_transposed(fv, sv + (p * 16 + (lane & 15)) * ROW + i * 8);
        mma_16x8x16(z[i], fp, fv);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
    sum[r] += __shfl_xor_sync(ALL_LANES, sum[r], 1);
    sum[r] += __shfl_xor_sync(ALL_LANES, sum[r], 2);
    if (row[r] >= a.n) continue;
    float inverse = 1.f / sum[r];
    u16* out = a.z + ((u64)row[r] * a.heads + head) * a.e;
#pragma unroll
    for (int i = 0; i < E / 8; i++) {
      int c = i * 8 + (lane & 3) * 2;
      if (c < a.e) *(u32*)(out + c) = bf16_pair(z[i][r * 2] * inverse, z[i][r * 2 + 1] * inverse);
    }
    if (a.lse && (lane & 3) == 0) a.lse[(u64)row[r] * a.heads + head] = most[r] + __logf(sum[r]);
  }
}

KERNEL(attention_32, AttentionArgs, 128) { attention<32, 64>(a); }
KERNEL(attention_64, AttentionArgs, 128) { attention<64, 64>(a); }
KERNEL(attention_128, AttentionArgs, 128) { attention<128, 32>(a); }
KERNEL(attention_256, AttentionArgs, 128) { attention<256, 32>(a); }
