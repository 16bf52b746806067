// The entries of a code by latent, in ascending order of their places: count, prefix sums, then a bitmap of each latent's rows. The
// order in which threads run does not matter anywhere, so that sums over a latent's entries have the same bits every time.
struct CountArgs {
  const u32* latents;
  u32* counts;
  int places;
};

struct ScanArgs {
  const u32* counts;
  u32* starts;
  int n;
};

struct ScatterArgs {
  const u32* latents;
  const u32* starts;
  u32* cursors;
  u32* places;
  int count;
};

struct SortArgs {
  const u32* starts;
  const u32* latents;
  u32* places;
  int rows;
  int k;
};

KERNEL(csr_count, CountArgs, 256) {
  u32 i = blockIdx.x * 256 + threadIdx.x;
  if (i < (u32)a.places && a.latents[i] != NO_LATENT) atomicAdd(&a.counts[a.latents[i]], 1u);
}

// starts[i] = counts[0] + ... + counts[i - 1], and the sum of all at starts[n]. One block.
KERNEL(csr_scan, ScanArgs, 1024) {
  __shared__ u32 warps[32];
  u32 lane = threadIdx.x & 31, warp = threadIdx.x / 32, base = 0;
  for (int start = 0; start < a.n; start += 1024) {
    int i = start + threadIdx.x;
    u32 mine = i < a.n ? a.counts[i] : 0, through = warp_prefix(mine);
    __syncthreads();
    if (lane == 31) warps[warp] = through;
    __syncthreads();
    u32 before = base;
    for (u32 j = 0; j < 32; j++) {
      if (j < warp) before += warps[j];
      base += warps[j];
    }
    if (i < a.n) a.starts[i] = before + through - mine;
  }
  if (threadIdx.x == 0) a.starts[a.n] = base;
}

// Each entry's place to its latent, in any order: `cursors` are zeros before.
KERNEL(csr_scatter, ScatterArgs, 256) {
  u32 i = blockIdx.x * 256 + threadIdx.x;
  if (i >= (u32)a.count || a.latents[i] == NO_LATENT) return;
  u32 latent = a.latents[i];
  a.places[a.starts[latent] + atomicAdd(&a.cursors[latent], 1u)] = i;
}

// Each latent's places in order. A row has a latent once at most, so its rows are a bitmap, and the rank of a row is the number of
// bits before it; which of the row's places it was is looked up in the row. A block a latent, a bit of shared memory a row.
KERNEL(csr_sort, SortArgs, 128) {
  DYNAMIC_SHARED(u32, bits);
  __shared__ u32 warps[4];
  u32 begin = a.starts[blockIdx.x], end = a.starts[blockIdx.x + 1];
  if (end - begin < 2) return;
  u32 words = (a.rows + 31) / 32, lane = threadIdx.x & 31, warp = threadIdx.x / 32, base = begin;
  for (u32 i = threadIdx.x; i < words; i += 128) bits[i] = 0;
  __syncthreads();
  for (u32 i = begin + threadIdx.x; i < end; i += 128) {
    u32 row = a.places[i] / a.k;
    atomicOr(&bits[row / 32], 1u << (row & 31));
  }
  for (u32 start = 0; start < words; start += 128) {
    __syncthreads();
    u32 i = start + threadIdx.x, word = i < words ? bits[i] : 0, through = warp_prefix(__popc(word));
    if (lane == 31) warps[warp] = through;
    __syncthreads();
    u32 at = base + through - __popc(word);
    for (u32 j = 0; j < 4; j++) {
      if (j < warp) at += warps[j];
      base += warps[j];
    }
    for (; word; word &= word - 1) {
      u32 row = i * 32 + __popc((word & (0u - word)) - 1), low = 0, high = a.k - 1;
      while (low < high) {  // latents ascend within a row; unused places hold the largest number
        u32 middle = (low + high) / 2;
        if (a.latents[(u64)row * a.k + middle] < blockIdx.x) low = middle + 1; else high = middle;
      }
      a.places[at++] = row * a.k + low;
    }
  }
}
