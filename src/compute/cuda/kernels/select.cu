// Which pre-activations become entries of a code. All kernels write what the vocabulary calls a code: the entries of a row in
// ascending order of their latents, then NO_LATENT with value 0. Positive floats are ordered as their bits are, so a threshold is
// found digit by digit (radix selection, eight bits at a time), and equal values are told apart by their place: nothing depends on
// the order in which threads run.
struct TopKArgs {
  const float* u;
  const u8* among;
  u32* latents;
  float* values;
  int f;
  int k;
};

struct ThresholdArgs {
  const float* u;
  const float* score;
  u32* state;
  u32* histogram;
  u64 count;
  int f;
  int round;
};

struct TiesArgs {
  const float* u;
  const float* score;
  const u32* state;
  u32* ties;
  int f;
};

struct CompactArgs {
  const float* u;
  const float* threshold;
  const float* score;
  const u32* state;
  const u32* ties_before;
  u32* latents;
  float* values;
  u32* counts;
  int f;
  int k;
  int rule;
  float half_width;
};

// 0 for what is no candidate, so every candidate is above.
DEVICE u32 rank_of(float x) { return x > 0.f ? __float_as_uint(x) : 0u; }

// The bin in which the `need`-th largest lies, by one warp: the digit, and how many are still needed of it. Where there are fewer
// than `need` in all bins nothing is written.
DEVICE void find_digit(const u32* histogram, u32 prefix, u32 need, u32* out_prefix, u32* out_need) {
  u32 lane = threadIdx.x & 31, counts[8], mine = 0;
#pragma unroll
  for (int j = 0; j < 8; j++) counts[j] = histogram[255 - (lane * 8 + j)], mine += counts[j];
  u32 through = warp_prefix(mine), above = through - mine;
  if (above < need && need <= through) {
    u32 digit = 0, before = above;
    bool is_found = false;
#pragma unroll
    for (int j = 0; j < 8; j++) {
      if (!is_found && before + counts[j] >= need) digit = 255 - (lane * 8 + j), is_found = true;
      if (!is_found) before += counts[j];
    }
    *out_prefix = prefix << 8 | digit;
    *out_need = need - before;
  }
}

// One step of writing a row in order: every thread says whether its element is an entry and gets the place of it. Blocks of 512.
// `base` is what was counted before; all threads get the new one.
DEVICE u32 place_in_order(bool is_entry, u32* warps, u32& base) {
  u32 lane = threadIdx.x & 31, warp = threadIdx.x / 32, mine = __ballot_sync(ALL_LANES, is_entry);
  __syncthreads();  // the last step's counts have been read
  if (lane == 0) warps[warp] = __popc(mine);
  __syncthreads();
  u32 place = base + __popc(mine & ((1u << lane) - 1));
  for (u32 i = 0; i < 16; i++) {
    if (i < warp) place += warps[i];
    base += warps[i];
  }
  return place;
}

// The places behind a row's last entry.
DEVICE void fill_row(u32* latents, float* values, u32 used, int k) {
  for (int i = used + threadIdx.x; i < k; i += 512) latents[i] = NO_LATENT, values[i] = 0.f;
}

// The k largest of each row that are positive; of equal ones the lower latent wins. With `among`, only where it is not 0.
KERNEL(topk_row, TopKArgs, 512) {
  __shared__ u32 histogram[256], found[2], warps[16], tie_warps[16];
  const float* u = a.u + (u64)blockIdx.x * a.f;
  u32 prefix = 0, need = a.k;
  if (threadIdx.x == 0) found[0] = 0, found[1] = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += 512) histogram[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < a.f; i += 512) {
      u32 rank = a.among && !a.among[i] ? 0 : rank_of(u[i]);
      if (shift == 24 || rank >> (shift + 8) == prefix) atomicAdd(&histogram[rank >> shift & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 32) find_digit(histogram, prefix, need, &found[0], &found[1]);
    __syncthreads();
    prefix = found[0], need = found[1];
    __syncthreads();
  }
  u32 *latents = a.latents + (u64)blockIdx.x * a.k, used = 0, ties = 0;
  float* values = a.values + (u64)blockIdx.x * a.k;
  for (int start = 0; start < a.f; start += 512) {
    int i = start + threadIdx.x;
    float x = i < a.f ? u[i] : 0.f;
    u32 rank = i < a.f && !(a.among && !a.among[i]) ? rank_of(x) : 0;
    bool is_tie = rank > 0 && rank == prefix;
    u32 tie = place_in_order(is_tie, tie_warps, ties);
    bool is_entry = rank > prefix || (is_tie && tie < need);
    u32 place = place_in_order(is_entry, warps, used);
    if (is_entry) latents[place] = i, values[place] = x;
  }
  fill_row(latents, values, used, a.k);
}

// One digit of the threshold of the whole batch, rounds 0 to 3: counts of the digit among those with the prefix found so far.
// state: prefix, and how many are still needed.
KERNEL(batch_histogram, ThresholdArgs, 512) {
  __shared__ u32 histogram[256];
  for (int i = threadIdx.x; i < 256; i += 512) histogram[i] = 0;
  __syncthreads();
  const float* u = a.u + (u64)blockIdx.x * a.f;
  u32 shift = 24 - 8 * a.round, prefix = a.round ? a.state[0] : 0;
  for (int i = threadIdx.x; i < a.f; i += 512) {
    u32 rank = rank_of(a.score ? u[i] * __ldg(a.score + i) : u[i]);
    if (a.round == 0 || rank >> (shift + 8) == prefix) atomicAdd(&histogram[rank >> shift & 255], 1u);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += 512) {
    if (histogram[i]) atomicAdd(&a.histogram[i], histogram[i]);
  }
}

// Takes the digit, and clears the counts for the next round. One block.
KERNEL(batch_digit, ThresholdArgs, 32) {
  u32 prefix = a.round ? a.state[0] : 0, need = a.round ? a.state[1] : (u32)a.count;
  __syncwarp();
  find_digit(a.histogram, prefix, need, &a.state[0], &a.state[1]);
  __syncwarp();
  for (int i = threadIdx.x; i < 256; i += 32) a.histogram[i] = 0;
}

// How many of each row are exactly at the batch's threshold: their sums over the rows before say who is still taken.
KERNEL(batch_ties, TiesArgs, 512) {
  __shared__ float scratch[16];
  const float* u = a.u + (u64)blockIdx.x * a.f;
  u32 threshold = a.state[0];
  float ties = 0.f;  // below 2^24, so exact
  for (int i = threadIdx.x; i < a.f; i += 512) {
    u32 rank = rank_of(a.score ? u[i] * __ldg(a.score + i) : u[i]);
    if (rank && rank == threshold) ties += 1.f;
  }
  ties = block_sum(ties, scratch);
  if (threadIdx.x == 0) a.ties[blockIdx.x] = (u32)ties;
}

// The entries by a rule: 0 positive, 1 above the latent's threshold, 2 near it (the value is 0 below it), 3 the batch's largest.
// `counts` is how many each row has, also where that is more than the k places there are: then those of the lowest latents are kept.
KERNEL(act_compact, CompactArgs, 512) {
  __shared__ u32 warps[16], tie_warps[16];
  const float* u = a.u + (u64)blockIdx.x * a.f;
  u32 *latents = a.latents + (u64)blockIdx.x * a.k, used = 0, ties = a.rule == 3 ? a.ties_before[blockIdx.x] : 0;
  float* values = a.values + (u64)blockIdx.x * a.k;
  for (int start = 0; start < a.f; start += 512) {
    int i = start + threadIdx.x;
    bool is_there = i < a.f, is_entry = false;
    float x = is_there ? u[i] : 0.f, value = x;
    if (a.rule == 3) {
      u32 rank = is_there ? rank_of(a.score ? x * __ldg(a.score + i) : x) : 0;
      bool is_tie = rank > 0 && rank == a.state[0];
      u32 tie = place_in_order(is_tie, tie_warps, ties);
      is_entry = rank > a.state[0] || (is_tie && tie < a.state[1]);
    } else if (is_there) {
      float threshold = a.rule ? __ldg(a.threshold + i) : 0.f;
      is_entry = a.rule == 2 ? fabsf(x - threshold) < a.half_width : x > threshold && x > 0.f;
      if (a.rule == 2 && !(x > threshold)) value = 0.f;
    }
    u32 place = place_in_order(is_entry, warps, used);
    if (is_entry && place < (u32)a.k) latents[place] = i, values[place] = value;
  }
  fill_row(latents, values, min(used, (u32)a.k), a.k);
  if (threadIdx.x == 0) a.counts[blockIdx.x] = used;
}
