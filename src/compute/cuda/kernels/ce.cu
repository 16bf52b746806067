// Cross entropy of logits: a block a row, one pass with a running maximum and sum a thread, put together at the end.
struct CrossEntropyArgs {
  const u16* logits;
  const u32* targets;
  float* loss;
  float* lse;
  int vocabulary;
  int stride;
  float softcap;
};

DEVICE float capped(float x, float cap) { return cap > 0.f ? cap * tanhf(x / cap) : x; }

KERNEL(cross_entropy, CrossEntropyArgs, 256) {
  __shared__ float maxima[8], sums[8];
  const u16* row = a.logits + (u64)blockIdx.x * a.stride;
  float most = -INFINITE, sum = 0.f;
  for (int i = threadIdx.x; i < a.vocabulary; i += 256) {
    float x = capped(bf16_float(__ldg(row + i)), a.softcap);
    if (x > most) sum = sum * __expf(most - x), most = x;
    if (x != -INFINITE) sum += __expf(x - most);  // a number that is none stays visible
  }
  float all = warp_max(most);
  sum = warp_sum(most == -INFINITE ? 0.f : sum * __expf(most - all));
  if ((threadIdx.x & 31) == 0) maxima[threadIdx.x / 32] = all, sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    most = maxima[0], sum = 0.f;
    for (int i = 1; i < 8; i++) most = fmaxf(most, maxima[i]);
    for (int i = 0; i < 8; i++) sum += maxima[i] == -INFINITE ? 0.f : sums[i] * __expf(maxima[i] - most);
    float lse = most + __logf(sum);
    if (a.lse) a.lse[blockIdx.x] = lse;
    a.loss[blockIdx.x] = lse - capped(bf16_float(row[a.targets[blockIdx.x]]), a.softcap);
  }
}
