// What training a coder does to the entries of a code, in f32. Everything that belongs to a latent is summed over its entries in the
// order of their places; a row's over its entries in the order of their latents.
struct SparseArgs {
  const u32* latents;
  const float* values;
  const float* w;
  const float* base;
  float* out;
  int n;
  int d;
  int k;
  int is_bias;
  float factor;
  u32 first;
  u32 end;
};

struct DotsArgs {
  const u32* latents;
  const float* w;
  const float* rows;
  float* out;
  u64 places;
  int d;
  int k;
  float scale;
  u32 first;
  u32 end;
};

struct GradientArgs {
  const u32* starts;
  const u32* places;
  const float* values;
  const float* g;
  const float* residual;
  const float* c;
  float* w_enc;
  float* b_enc;
  float* w_dec;
  int d;
  int out;
  int k;
  float scale;
  u32 first;
  u32 end;
  int accumulate;
};

struct LatentSumArgs {
  const u32* starts;
  const u32* places;
  const float* a;
  const float* b;
  float* out;
  int f;
  int kind;
};

struct PlaceArgs {
  const u32* latents;
  const float* values;
  const float* weight;
  float* out;
  float* side;
  double* partial;
  u64 places;
  float scale;
  int kind;
};

struct RenameArgs {
  u32* latents;
  const u32* names;
  u64 places;
};

// out[b] = base + factor times the sum of value times row over the row's entries of a range of latents: a block a row, a thread its
// columns. The base is a row for each, or one bias for all.
KERNEL(sparse_rows, SparseArgs, 256) {
  u64 row = blockIdx.x;
  const u32* latents = a.latents + row * a.k;
  const float* values = a.values + row * a.k;
  for (int p = threadIdx.x; p < a.d; p += 256) {
    float sum = 0.f;
    for (int j = 0; j < a.k; j++) {
      u32 latent = __ldg(latents + j);
      if (latent == NO_LATENT) break;
      if (latent >= a.first && latent < a.end) sum = fmaf(__ldg(values + j), a.w[(u64)latent * a.d + p], sum);
    }
    a.out[row * a.d + p] = fmaf(a.factor, sum, a.is_bias ? a.base[p] : a.base[row * a.d + p]);
  }
}

// out[place] = scale <rows[b], w[latent]> at the entries of a range, 0 in unused places: a warp a place.
KERNEL(entry_dots, DotsArgs, 256) {
  u64 place = (u64)blockIdx.x * 8 + threadIdx.x / 32;
  if (place >= a.places) return;
  u32 latent = a.latents[place], lane = threadIdx.x & 31;
  if (latent == NO_LATENT) {
    if (lane == 0) a.out[place] = 0.f;
    return;
  }
  if (latent < a.first || latent >= a.end) return;
  const float *w = a.w + (u64)latent * a.d, *r = a.rows + place / a.k * a.d;
  float sum = 0.f;
  for (int p = lane; p < a.d; p += 32) sum = fmaf(__ldg(w + p), __ldg(r + p), sum);
  sum = warp_sum(sum);
  if (lane == 0) a.out[place] = a.scale * sum;
}

// The gradients of a latent from one term: a block a latent, a thread its columns, the entries one after the other.
KERNEL(term_gradients, GradientArgs, 256) {
  u32 latent = blockIdx.x, begin = a.starts[latent], end = a.starts[latent + 1];
  if (latent < a.first || latent >= a.end) end = begin;
  if (begin == end && a.accumulate) return;
  for (int p = threadIdx.x; p < a.d; p += 256) {
    u64 at = (u64)latent * a.d + p;
    float sum = a.accumulate ? a.w_enc[at] : 0.f;
    for (u32 i = begin; i < end; i++) {
      u32 place = a.places[i];
      sum = fmaf(a.g[place], a.c[(u64)(place / a.k) * a.d + p], sum);
    }
    a.w_enc[at] = sum;
  }
  for (int p = threadIdx.x; p < a.out; p += 256) {
    u64 at = (u64)latent * a.out + p;
    float sum = a.accumulate ? a.w_dec[at] : 0.f;
    if (a.scale != 0.f) {
      for (u32 i = begin; i < end; i++) {
        u32 place = a.places[i];
        sum = fmaf(a.scale * a.values[place], a.residual[(u64)(place / a.k) * a.out + p], sum);
      }
    }
    a.w_dec[at] = sum;
  }
  if (threadIdx.x == 0) {
    float sum = a.accumulate ? a.b_enc[latent] : 0.f;
    for (u32 i = begin; i < end; i++) sum += a.g[a.places[i]];
    a.b_enc[latent] = sum;
  }
}

// kinds: 0 the sum of a[place] b[place] over a latent's entries (b counts as 1 where it is not given), 1 the least a[place], infinite
// without entries; a thread a latent
KERNEL(latent_sums, LatentSumArgs, 256) {
  u32 latent = blockIdx.x * 256 + threadIdx.x;
  if (latent >= (u32)a.f) return;
  float sum = a.kind ? INFINITE : 0.f;
  for (u32 i = a.starts[latent]; i < a.starts[latent + 1]; i++) {
    u32 place = a.places[i];
    if (a.kind) sum = fminf(sum, a.a[place]);
    else sum = a.b ? fmaf(a.a[place], a.b[place], sum) : sum + a.a[place];
  }
  a.out[latent] = sum;
}

// kinds: 0 out *= weight[latent]; 1 the least value weight[latent] of the block's entries; 2 a linear penalty: the sum of value
// weight[latent], out += scale weight[latent], side = scale value. A weight that is not given counts as 1. Sums and least values are
// the blocks', in double precision.
KERNEL(place_op, PlaceArgs, 256) {
  __shared__ double found[256];
  u64 range = (a.places + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * range, end = min(begin + range, a.places);
  double mine = a.kind == 1 ? (double)INFINITE : 0.;
  for (u64 i = begin + threadIdx.x; i < end; i += 256) {
    u32 latent = a.latents[i];
    bool is_entry = latent != NO_LATENT;
    float weight = is_entry && a.weight ? __ldg(a.weight + latent) : 1.f;
    if (a.kind == 0 && is_entry) a.out[i] *= weight;
    if (a.kind == 1 && is_entry) mine = min(mine, (double)(a.values[i] * weight));
    if (a.kind == 2) {
      if (is_entry) mine += (double)a.values[i] * (double)weight, a.out[i] += a.scale * weight;
      if (a.side) a.side[i] = is_entry ? a.scale * a.values[i] : 0.f;
    }
  }
  if (a.kind == 0) return;
  found[threadIdx.x] = mine;
  for (u32 half = 128; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      double other = found[threadIdx.x + half];
      found[threadIdx.x] = a.kind == 1 ? min(found[threadIdx.x], other) : found[threadIdx.x] + other;
    }
  }
  if (threadIdx.x == 0) a.partial[blockIdx.x] = found[0];
}

KERNEL(rename_entries, RenameArgs, 256) {
  u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i < a.places && a.latents[i] != NO_LATENT) a.latents[i] = a.names[a.latents[i]];
}
