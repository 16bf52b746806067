// An elementwise function of an MLP, times its other half where it is gated: eight numbers a thread. Bound by memory.
struct ActArgs {
  const u16* gate;
  const u16* up;
  u16* y;
  int n;
  int m;
  int stride;
  int kind;
};

DEVICE float activated(float x, int kind) {
  if (kind == 0) return x / (1.f + __expf(-x));
  if (kind == 1) return 0.5f * x * (1.f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
  if (kind == 2) return 0.5f * x * (1.f + erff(x * 0.7071067812f));
  return fmaxf(x, 0.f);
}

KERNEL(act, ActArgs, 256) {
  u32 vectors = a.m / 8, stride = a.stride / 8;
  u64 item = (u64)blockIdx.x * 256 + threadIdx.x;
  if (item >= (u64)a.n * vectors) return;
  u64 from = item / vectors * stride + item % vectors;
  float x[8], up[8];
  load_8(a.gate, from, x);
  if (a.up) load_8(a.up, from, up);
#pragma unroll
  for (int j = 0; j < 8; j++) x[j] = activated(x[j], a.kind) * (a.up ? up[j] : 1.f);
  store_8(a.y, item, x);
}
