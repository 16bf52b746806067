// What training a coder does to rows and buffers of f32, each a pass over memory: a warp a row, or a number a thread. Sums are in a
// fixed order: over lanes' columns, then over the lanes.
struct RowArgs {
  const float* a;
  const float* b;
  const float* scale;
  float* out;
  int n;
  int d;
  int kind;
};

struct BlendArgs {
  const float* x;
  float* y;
  u64 len;
  float a;
  float b;
  int kind;
};

struct CenterArgs {
  const float* x;
  const float* shift;
  float* c;
  u64 len;
  int d;
  float scale;
};

struct SplitArgs {
  const float* x;
  u16* y;
  u64 rows;
  int d;
  int parts;
  int is_left;
};

struct SquaresArgs {
  const float* x;
  const float* shift;
  double* partial;
  u64 len;
  int d;
};

struct TakeArgs {
  const float* x;
  const u32* rows;
  float* out;
  u64 len;
  int d;
};

struct AdamArgs {
  float* w;
  const float* g;
  float* m;
  float* v;
  u64 len;
  float learning_rate;
  float beta_1;
  float beta_2;
  float epsilon;
  float decay;
  float correct_1;
  float correct_2;
  float gradient_scale;
};

// kinds: 0 |a|, 1 |a - b| with one row b, 2 <a, b>, each into out[i]; 3 out -= <out, a> a; 4 out /= max(|out|, 1e-8);
// 5 out *= scale[i]; 6 out += scale[i] a
KERNEL(row_op, RowArgs, 256) {
  u64 row = (u64)blockIdx.x * 8 + threadIdx.x / 32;
  if (row >= (u64)a.n) return;
  int lane = threadIdx.x & 31;
  u64 at = row * a.d;
  float sum = 0.f;
  if (a.kind < 5) {
    for (int p = lane; p < a.d; p += 32) {
      float x = a.kind == 4 ? a.out[at + p] : a.a[at + p], y = x;
      if (a.kind == 1) x -= a.b[p], y = x;
      if (a.kind == 2) y = a.b[at + p];
      if (a.kind == 3) y = a.out[at + p];
      sum = fmaf(x, y, sum);
    }
    sum = warp_sum(sum);
  }
  if (a.kind < 3) {
    if (lane == 0) a.out[row] = a.kind == 2 ? sum : sqrtf(sum);
    return;
  }
  float factor = a.kind == 4 ? 1.f / fmaxf(sqrtf(sum), 1e-8f) : a.kind == 3 ? -sum : a.scale[row];
  for (int p = lane; p < a.d; p += 32) {
    float was = a.out[at + p];
    a.out[at + p] = a.kind == 4 || a.kind == 5 ? was * factor : fmaf(factor, a.a[at + p], was);
  }
}

// kinds: 0 y = a x + b y, 1 y = x y, 2 y = max(y, a); with b 0 it does not matter what y held
KERNEL(blend, BlendArgs, 256) {
  u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i >= a.len) return;
  if (a.kind == 0) a.y[i] = a.b == 0.f ? a.a * a.x[i] : fmaf(a.a, a.x[i], a.b * a.y[i]);
  if (a.kind == 1) a.y[i] *= a.x[i];
  if (a.kind == 2) a.y[i] = fmaxf(a.y[i], a.a);
}

KERNEL(center, CenterArgs, 256) {
  u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i < a.len) a.c[i] = fmaf(a.scale, a.x[i], -a.shift[i % a.d]);
}

// Rows for a product of bfloat16 numbers: one part, rounded; or three, of which the products' sum is that of the f32 numbers to
// 16 bits: [high, high, low] on the left, [high, low, high] on the right.
KERNEL(split_rows, SplitArgs, 256) {
  u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i >= a.rows * a.d) return;
  u64 row = i / a.d, p = i % a.d;
  u16* y = a.y + row * a.d * a.parts + p;
  float x = a.x[i];
  u16 high = float_bf16(x);
  y[0] = high;
  if (a.parts == 1) return;
  u16 low = float_bf16(x - bf16_float(high));
  y[a.d] = a.is_left ? high : low;
  y[2 * a.d] = a.is_left ? low : high;
}

// Sums of squares, of rows less a shift where one is given, of the blocks' ranges; in double precision.
KERNEL(squares, SquaresArgs, 256) {
  __shared__ double sums[256];
  u64 range = (a.len + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * range, end = min(begin + range, a.len);
  double sum = 0.;
  for (u64 i = begin + threadIdx.x; i < end; i += 256) {
    double x = a.shift ? (double)a.x[i] - (double)a.shift[i % a.d] : (double)a.x[i];
    sum += x * x;
  }
  sums[threadIdx.x] = sum;
  for (u32 half = 128; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) a.partial[blockIdx.x] = sums[0];
}

KERNEL(take_rows, TakeArgs, 256) {
  u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i < a.len) a.out[i] = a.x[(u64)a.rows[i / a.d] * a.d + i % a.d];
}

KERNEL(adam_update, AdamArgs, 256) {
  u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i >= a.len) return;
  float g = a.g[i] * a.gradient_scale;
  float first = a.beta_1 * a.m[i] + (1.f - a.beta_1) * g, second = a.beta_2 * a.v[i] + (1.f - a.beta_2) * g * g;
  a.m[i] = first;
  a.v[i] = second;
  a.w[i] = a.w[i] * a.decay - a.learning_rate * (first * a.correct_1) / (sqrtf(second * a.correct_2) + a.epsilon);
}
