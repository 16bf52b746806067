// Rows of the embedding tables: a warp a row, eight numbers a lane at a time. Bound by memory.
struct EmbedArgs {
  const u32* ids;
  const u32* positions;
  const u16* tokens;
  const u16* places;
  u16* y;
  int n;
  int d;
  float scale;
};

KERNEL(embed, EmbedArgs, 256) {
  u32 row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x & 31, vectors = a.d / 8;
  if (row >= (u32)a.n) return;
  u64 token = (u64)a.ids[row] * vectors, place = a.places ? (u64)a.positions[row] * vectors : 0;
  for (u32 i = lane; i < vectors; i += 32) {
    float x[8];
    load_8(a.tokens, token + i, x);
#pragma unroll
    for (int j = 0; j < 8; j++) x[j] *= a.scale;
    if (a.places) {
      float p[8];
      load_8(a.places, place + i, p);
#pragma unroll
      for (int j = 0; j < 8; j++) x[j] += p[j];
    }
    store_8(a.y, (u64)row * vectors + i, x);
  }
}
