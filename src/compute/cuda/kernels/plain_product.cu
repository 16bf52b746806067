// A matrix product without tensor cores: a thread a result, so that neighbours read the same row of x. For shapes that the library
// has no way for, and to compare it with.
struct PlainProductArgs {
  const u16* x;
  const u16* w;
  const u16* bias_bf16;
  const float* bias_float;
  u16* y_bf16;
  float* y_float;
  int n;
  int n_in;
  int n_out;
  int x_stride;
  int w_stride;
  int y_stride;
  int adds;
};

KERNEL(plain_product, PlainProductArgs, 256) {
  u64 item = (u64)blockIdx.x * 256 + threadIdx.x;
  if (item >= (u64)a.n * a.n_out) return;
  u64 i = item / a.n_out, j = item % a.n_out, at = i * a.y_stride + j;
  const u16 *x = a.x + i * a.x_stride, *w = a.w + j * a.w_stride;
  float sum = 0.f;
  for (int p = 0; p < a.n_in / 8; p++) {
    float v[8], u[8];
    load_8(x, p, v);
    load_8(w, p, u);
#pragma unroll
    for (int q = 0; q < 8; q++) sum = fmaf(v[q], u[q], sum);
  }
  if (a.bias_bf16) sum += bf16_float(a.bias_bf16[j]);
  if (a.bias_float) sum += a.bias_float[j];
  if (a.y_bf16) a.y_bf16[at] = float_bf16(a.adds ? sum + bf16_float(a.y_bf16[at]) : sum);
  if (a.y_float) a.y_float[at] = a.adds ? sum + a.y_float[at] : sum;
}
