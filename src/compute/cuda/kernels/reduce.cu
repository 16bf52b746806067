// Sums over rows, in two steps so that their order never changes: a block a range of rows and 128 columns, then a thread a column.
// What a step of training wants to know is summed by one block in double precision.
struct ColumnsArgs {
  const u16* rows_bf16;
  const float* rows_float;
  const float* weight;
  float* partial;
  int n;
  int d;
  int rows_a_block;
};

struct FinishArgs {
  const float* partial;
  float* out;
  int parts;
  int d;
  float keep;
  float scale;
};

struct StatsArgs {
  const float* loss;
  const float* squares;
  const u32* latents;
  double* out;
  u64 places;
  int n;
};

struct IdleArgs {
  const u32* idle;
  u8* is_idle;
  u32* count;
  int f;
  u32 limit;
};

KERNEL(column_partials, ColumnsArgs, 128) {
  int c = blockIdx.x * 128 + threadIdx.x, first = blockIdx.y * a.rows_a_block, end = min(first + a.rows_a_block, a.n);
  if (c >= a.d) return;
  float sum = 0.f;
  for (int i = first; i < end; i++) {
    u64 at = (u64)i * a.d + c;
    float x = a.rows_bf16 ? bf16_float(__ldg(a.rows_bf16 + at)) : __ldg(a.rows_float + at);
    sum = a.weight ? fmaf(__ldg(a.weight + i), x, sum) : sum + x;
  }
  a.partial[(u64)blockIdx.y * a.d + c] = sum;
}

// out = keep out + scale times the sum; with `keep` 0 it does not matter what was there.
KERNEL(column_finish, FinishArgs, 128) {
  int c = blockIdx.x * 128 + threadIdx.x;
  if (c >= a.d) return;
  float sum = 0.f;
  for (int i = 0; i < a.parts; i++) sum += a.partial[(u64)i * a.d + c];
  a.out[c] = (a.keep == 0.f ? 0.f : a.keep * a.out[c]) + a.scale * sum;
}

// out: the sum of the losses, that of the squared norms, and the number of entries. One block.
KERNEL(stats, StatsArgs, 256) {
  __shared__ double sums[3][256];
  u32 t = threadIdx.x;
  double loss = 0., squares = 0., entries = 0.;
  for (int i = t; i < a.n; i += 256) loss += a.loss[i], squares += a.squares ? a.squares[i] : 0.f;
  for (u64 i = t; i < a.places; i += 256) entries += a.latents[i] != NO_LATENT;
  sums[0][t] = loss, sums[1][t] = squares, sums[2][t] = entries;
  for (u32 half = 128; half; half /= 2) {
    __syncthreads();
    if (t < half) {
      for (int j = 0; j < 3; j++) sums[j][t] += sums[j][t + half];
    }
  }
  __syncthreads();
  if (t < 3) a.out[t] = sums[t][0];
}

// Which latents have had no entry for longer than the limit, and how many: the set that dead ones are revived from. `count` is
// zero before.
KERNEL(idle_latents, IdleArgs, 256) {
  int i = blockIdx.x * 256 + threadIdx.x;
  bool is_idle = i < a.f && a.idle[i] > a.limit;
  if (i < a.f) a.is_idle[i] = is_idle;
  u32 lanes = __ballot_sync(ALL_LANES, is_idle);
  if (lanes && (threadIdx.x & 31) == 0) atomicAdd(a.count, (u32)__popc(lanes));
}
