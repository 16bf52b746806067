// The scheduler of the emulator, what warps do together, and the two functions that the tests call.
#include "emulator.h"
#include <sys/mman.h>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace emulator {
Thread* current;
Index block, grid, block_size;

struct Kernel { void (*call)(const void*); size_t size, align; unsigned threads; };
struct Copy { void* to; uint8_t bytes[16]; };

static std::map<std::string, Kernel>& kernels() { static std::map<std::string, Kernel> all; return all; }
static uint8_t* dynamic;
static size_t dynamic_bytes;
static std::vector<Thread> threads;
static std::vector<std::vector<Copy>> copies;
static void* scheduler_stack;
static const Kernel* running;
static const void* running_args;
static const char* running_name = "";

Registration::Registration(const char* name, void (*call)(const void*), size_t size, size_t align, unsigned n) {
  kernels()[name] = {call, size, align, n};
}

void fail(const char* what) {
  fprintf(stderr, "emulator: %s, block (%u, %u): %s\n", running_name, block.x, block.y, what);
  abort();
}

void* dynamic_shared() { return dynamic; }

// Save the registers that a call keeps on this stack, note its pointer, and go on with the other stack.
extern "C" void emulator_switch(void** save, void* to);
asm(R"(.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emulator_switch, .-emulator_switch
.section .note.GNU-stack,"",@progbits
.text
)");

static void to_scheduler() {
  Thread* me = current;
  emulator_switch(&me->stack_pointer, scheduler_stack);
  current = me;
}
void wait_for_block() { current->state = Thread::at_barrier; to_scheduler(); }
void wait_for_warp(Warp op) { current->state = Thread::at_warp; current->op = op; to_scheduler(); }
static void run_thread() {
  running->call(running_args);
  current->state = Thread::done;
  to_scheduler();
}

static void multiply(Thread* lanes) {
  // the fragments of mma.m16n8k16: of lane l, row l / 4 (and 8 below), columns 2 (l % 4) and the next (and 8 to the right)
  float a[16][16], b[16][8], c[16][8];
  for (int l = 0; l < 32; l++) {
    auto fa = (const unsigned*)lanes[l].first, fb = (const unsigned*)lanes[l].second;
    auto fc = (const float*)lanes[l].result;
    int r = l / 4, q = l % 4 * 2;
    for (int i = 0; i < 4; i++) {
      int row = r + i % 2 * 8, column = q + i / 2 * 8;
      a[row][column] = __uint_as_float(fa[i] << 16), a[row][column + 1] = __uint_as_float(fa[i] & 0xffff0000u);
      c[r + i / 2 * 8][q + i % 2] = fc[i];
    }
    for (int i = 0; i < 2; i++) {
      b[q + i * 8][r] = __uint_as_float(fb[i] << 16), b[q + i * 8 + 1][r] = __uint_as_float(fb[i] & 0xffff0000u);
    }
  }
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 8; j++)
      for (int k = 0; k < 16; k++) c[i][j] += a[i][k] * b[k][j];
  for (int l = 0; l < 32; l++)
    for (int i = 0; i < 4; i++) ((float*)lanes[l].result)[i] = c[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
}

static void load(Thread* lanes) {
  for (int m = 0; m < lanes[0].matrices; m++) {
    uint16_t x[8][8];
    for (int r = 0; r < 8; r++) {
      const void* row = lanes[m * 8 + r].first;
      if ((uintptr_t)row % 16) fail("a matrix row is not aligned to 16 bytes");
      memcpy(x[r], row, 16);
    }
    for (int l = 0; l < 32; l++) {
      int r = l / 4, q = l % 4 * 2;
      unsigned low = lanes[0].is_transposed ? x[q][r] : x[r][q], high = lanes[0].is_transposed ? x[q + 1][r] : x[r][q + 1];
      ((unsigned*)lanes[l].result)[m] = low | high << 16;
    }
  }
}

// All lanes have arrived at the same op: its result for each.
static void together(Thread* lanes) {
  uint64_t values[32], votes = 0;
  for (int l = 0; l < 32; l++) values[l] = lanes[l].value, votes |= (lanes[l].value & 1) << l;
  switch (lanes[0].op) {
    case Warp::shuffle: for (int l = 0; l < 32; l++) lanes[l].value = values[lanes[l].source & 31]; break;
    case Warp::ballot: for (int l = 0; l < 32; l++) lanes[l].value = votes; break;
    case Warp::multiply: multiply(lanes); break;
    case Warp::load: load(lanes); break;
    default: break;
  }
}

extern "C" char __start_emulated_shared[] __attribute__((weak)), __stop_emulated_shared[] __attribute__((weak));
static const size_t stack_bytes = 64 << 10;

static uint64_t next(uint64_t& seed) {
  seed = seed * 6364136223846793005ull + 1442695040888963407ull;
  return seed >> 33;
}

static void run_block(char* stacks, uint64_t& seed) {
  if (__start_emulated_shared) memset(__start_emulated_shared, 0xff, __stop_emulated_shared - __start_emulated_shared);
  memset(dynamic, 0xff, dynamic_bytes);
  unsigned n = block_size.x, done = 0;
  threads.assign(n, Thread{});
  copies.assign(n, {});
  std::vector<unsigned> ready(n), arrived(n / 32, 0);
  for (unsigned i = 0; i < n; i++) {
    auto top = (void**)(stacks + (i + 1) * stack_bytes);
    *--top = nullptr;  // a call would have aligned the stack so
    *--top = (void*)run_thread;
    for (int j = 0; j < 6; j++) *--top = nullptr;
    threads[i].stack_pointer = top;
    threads[i].id = {i, 0, 0};
    threads[i].lane = i % 32;
    ready[i] = i;
  }
  while (done < n) {
    while (!ready.empty()) {
      unsigned pick = next(seed) % ready.size(), i = ready[pick], warp = i / 32;
      ready[pick] = ready.back();
      ready.pop_back();
      current = &threads[i];
      emulator_switch(&scheduler_stack, current->stack_pointer);
      if (threads[i].state == Thread::done) done++;
      if (threads[i].state == Thread::at_warp && ++arrived[warp] == 32) {
        Thread* lanes = &threads[warp * 32];
        for (int l = 1; l < 32; l++) if (lanes[l].op != lanes[0].op) fail("the lanes of a warp are at different ops");
        together(lanes);
        arrived[warp] = 0;
        for (unsigned l = 0; l < 32; l++) lanes[l].state = Thread::ready, ready.push_back(warp * 32 + l);
      }
    }
    if (done == n) return;
    unsigned at_barrier = 0;
    for (auto& thread : threads) at_barrier += thread.state == Thread::at_barrier;
    if (at_barrier < n) {
      char text[160];
      snprintf(text, sizeof text, "deadlock: %u threads at a barrier, %u in a warp op, %u at their end", at_barrier, n - at_barrier - done, done);
      fail(text);
    }
    for (unsigned i = 0; i < n; i++) threads[i].state = Thread::ready, ready.push_back(i);
  }
}
}  // namespace emulator

using namespace emulator;

void copy_16_async(void* to, const void* from, bool is_there) {
  if ((uintptr_t)to % 16 || (is_there && (uintptr_t)from % 16)) fail("an asynchronous copy is not aligned to 16 bytes");
  Copy copy{to, {}};
  if (is_there) memcpy(copy.bytes, from, 16);
  copies[current - threads.data()].push_back(copy);
}
void wait_for_copies() {
  auto& mine = copies[current - threads.data()];
  for (auto& copy : mine) memcpy(copy.to, copy.bytes, 16);
  mine.clear();
}

// What a kernel declares: bytes of its argument and threads of its blocks. 1 if there is none of that name.
extern "C" int emulator_describe(const char* name, uint64_t* size, uint64_t* align, uint32_t* threads_a_block) {
  auto found = kernels().find(name);
  if (found == kernels().end()) return 1;
  *size = found->second.size, *align = found->second.align, *threads_a_block = found->second.threads;
  return 0;
}

// How many kernels there are.
extern "C" uint64_t emulator_count() { return kernels().size(); }

// Run every block of a launch, one after the other in an order by the seed. 1 if there is no kernel of that name.
extern "C" int emulator_launch(const char* name, uint32_t x, uint32_t y, uint32_t shared, const void* args, uint64_t seed) {
  auto found = kernels().find(name);
  if (found == kernels().end()) return 1;
  static std::mutex turn;  // there is one block at a time, and its threads are the process's
  std::lock_guard<std::mutex> lock(turn);
  running = &found->second, running_args = args, running_name = found->first.c_str();
  grid = {x, y, 1}, block_size = {running->threads, 1, 1};
  char* stacks = (char*)mmap(nullptr, block_size.x * stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  // dynamic shared memory ends where a page begins that must not be touched
  const size_t page = 4096;
  size_t room = (shared + page - 1) / page * page;
  uint8_t* pages = (uint8_t*)mmap(nullptr, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (stacks == MAP_FAILED || pages == MAP_FAILED || mprotect(pages + room, page, PROT_NONE)) fail("no memory");
  dynamic_bytes = (shared + 15) / 16 * 16, dynamic = pages + room - dynamic_bytes;
  uint64_t state = seed * 2 + 1, blocks = (uint64_t)x * y, start = next(state) % blocks;
  for (uint64_t i = 0; i < blocks; i++) {
    uint64_t at = (start + i) % blocks;
    block = {(unsigned)(at % x), (unsigned)(at / x), 0};
    run_block(stacks, state);
  }
  munmap(stacks, block_size.x * stack_bytes);
  munmap(pages, room + page);
  return 0;
}
