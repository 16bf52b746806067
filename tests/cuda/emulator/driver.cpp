// The driver that the emulator is behind, as far as the program calls it, and stand-ins for NVRTC and cuBLASLt. Work that is
// asynchronous on a device waits here until somebody waits for it, so that what is read or let go too early shows. Memory ends at a
// page that must not be touched and begins as numbers that are none.
//
// EMULATOR_FAIL="cuLaunchKernel:5:700" makes the fifth launch fail with that status, and all later calls; EMULATOR_MEMORY is the
// memory of a device in bytes, EMULATOR_DEVICES their number.
#include <atomic>
#include <deque>
#include <functional>
#include <mutex>
#include <set>

namespace driver {
using emulator::kernels;
struct Stream { std::deque<std::function<void()>> work; uint64_t sent = 0, done = 0; };
struct Event { Stream* stream = nullptr; uint64_t at = 0; };
struct Allocation { char* pages; size_t room, bytes; };

static std::recursive_mutex turn;
static std::map<uint64_t, Allocation> allocations;
static std::map<const char*, size_t> pinned;
static size_t used;
static thread_local bool is_current;
static int broken;
static uint64_t seed = 1;
static std::map<std::string, uint64_t> calls;

static uint64_t setting(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  return text ? strtoull(text, nullptr, 10) : otherwise;
}

static std::string fail_call;
static uint64_t fail_at;
static int fail_code;
static void read_fail() {
  static bool is_read;
  if (is_read) return;
  is_read = true;
  if (const char* text = getenv("EMULATOR_FAIL")) {
    std::string all = text;
    size_t first = all.find(':'), second = all.find(':', first + 1);
    fail_call = all.substr(0, first);
    fail_at = strtoull(all.c_str() + first + 1, nullptr, 10), fail_code = atoi(all.c_str() + second + 1);
  }
}

// Every call counts; the one that is to fail does, and a device that failed stays so.
static int enter(const char* call, bool needs_context = true) {
  read_fail();
  if (broken) return broken;
  uint64_t n = ++calls[call];
  if (fail_at && fail_call == call && n >= fail_at) {
    if (fail_code != 2) broken = fail_code;
    else fail_at = 0;
    return fail_code;
  }
  return needs_context && !is_current ? 201 : 0;
}

static void run_until(Stream* stream, uint64_t at) {
  while (stream->done < at) {
    auto work = std::move(stream->work.front());
    stream->work.pop_front();
    stream->done++;
    work();
  }
}
static void send(Stream* stream, std::function<void()> work) { stream->work.push_back(std::move(work)), stream->sent++; }

// The allocation that holds all of a range.
static bool holds(uint64_t at, size_t bytes) {
  auto after = allocations.upper_bound(at);
  if (after == allocations.begin()) return false;
  auto found = std::prev(after);
  return at + bytes <= found->first + found->second.bytes;
}
static bool is_pinned(const void* at, size_t bytes) {
  auto after = pinned.upper_bound((const char*)at);
  if (after == pinned.begin()) return false;
  auto found = std::prev(after);
  return (const char*)at + bytes <= found->first + found->second;
}
}  // namespace driver

#define CALL(name) std::lock_guard<std::recursive_mutex> lock(driver::turn); if (int rc = driver::enter(#name)) return rc
#define FREE_CALL(name) std::lock_guard<std::recursive_mutex> lock(driver::turn); if (int rc = driver::enter(#name, false)) return rc
using driver::Event;
using driver::Stream;

extern "C" {
// for tests in this process: as EMULATOR_FAIL, and mended again by a null
void emulator_fail(const char* call, uint64_t at, int code) {
  std::lock_guard<std::recursive_mutex> lock(driver::turn);
  driver::read_fail();
  driver::broken = 0, driver::fail_call = call ? call : "", driver::fail_code = code;
  driver::fail_at = call ? driver::calls[call] + at : 0;
}
uint64_t emulator_used() { return driver::used; }
uint64_t emulator_calls(const char* call) { return driver::calls[call]; }

int cuInit(unsigned) { FREE_CALL(cuInit); return 0; }
int cuDriverGetVersion(int* version) { *version = 12040; return 0; }
int cuDeviceGetCount(int* count) { *count = (int)driver::setting("EMULATOR_DEVICES", 1); return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char* name, int room, int device) { snprintf(name, room, "Emulator %d", device); return 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = driver::setting("EMULATOR_MEMORY", 1ull << 30); return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 16 ? 4 : attribute == 75 ? 8 : 0;
  return 0;
}
int cuGetErrorString(int code, const char** text) {
  static thread_local char words[40];
  snprintf(words, sizeof words, "emulated status %d", code);
  *text = words;
  return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int device) { FREE_CALL(cuDevicePrimaryCtxRetain); *context = (void*)(intptr_t)(device + 1); return 0; }
int cuDevicePrimaryCtxRelease_v2(int) { driver::is_current = false; return 0; }
int cuCtxSetCurrent(void* context) { FREE_CALL(cuCtxSetCurrent); driver::is_current = context; return 0; }
int cuStreamCreate(void** stream, unsigned) { CALL(cuStreamCreate); *stream = new Stream; return 0; }
int cuStreamDestroy_v2(void* stream) { CALL(cuStreamDestroy); delete (Stream*)stream; return 0; }
int cuStreamSynchronize(void* stream) {
  CALL(cuStreamSynchronize);
  driver::run_until((Stream*)stream, ((Stream*)stream)->sent);
  return 0;
}
int cuEventCreate(void** event, unsigned) { CALL(cuEventCreate); *event = new Event; return 0; }
int cuEventDestroy_v2(void* event) { CALL(cuEventDestroy); delete (Event*)event; return 0; }
int cuEventRecord(void* event, void* stream) {
  CALL(cuEventRecord);
  *(Event*)event = {(Stream*)stream, ((Stream*)stream)->sent};
  return 0;
}
int cuEventSynchronize(void* event) {
  CALL(cuEventSynchronize);
  auto e = (Event*)event;
  if (e->stream) driver::run_until(e->stream, e->at);
  return 0;
}
int cuEventElapsedTime(float* milliseconds, void*, void*) { CALL(cuEventElapsedTime); *milliseconds = 1.f; return 0; }
int cuMemGetInfo_v2(size_t* free, size_t* total) {
  CALL(cuMemGetInfo);
  *total = driver::setting("EMULATOR_MEMORY", 1ull << 30), *free = *total - std::min(*total, driver::used);
  return 0;
}
int cuDeviceGetDefaultMemPool(void** pool, int) { CALL(cuDeviceGetDefaultMemPool); *pool = (void*)1; return 0; }
int cuMemPoolSetAttribute(void*, int attribute, void* value) {
  CALL(cuMemPoolSetAttribute);
  return attribute == 4 && *(uint64_t*)value == ~0ull ? 0 : 1;
}
int cuMemPoolTrimTo(void*, size_t) { CALL(cuMemPoolTrimTo); return 0; }
int cuMemAllocAsync(uint64_t* address, size_t bytes, void*) {
  CALL(cuMemAllocAsync);
  const size_t page = 4096, wanted = (bytes + 15) / 16 * 16, room = (wanted + page - 1) / page * page;
  if (!bytes) return 1;
  if (driver::used + bytes > driver::setting("EMULATOR_MEMORY", 1ull << 30)) return 2;
  auto pages = (char*)mmap(nullptr, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED || mprotect(pages + room, page, PROT_NONE)) return 2;
  memset(pages, 0xff, room);
  *address = (uint64_t)(pages + room - wanted);
  driver::allocations[*address] = {pages, room, bytes};
  driver::used += bytes;
  return 0;
}
int cuMemFreeAsync(uint64_t address, void* stream) {
  CALL(cuMemFreeAsync);
  auto found = driver::allocations.find(address);
  if (found == driver::allocations.end()) return 1;
  auto memory = found->second;
  driver::send((Stream*)stream, [address, memory] {
    size_t start = address - (uint64_t)memory.pages;
    for (size_t i = 0; i < memory.room; i++)
      if ((i < start || i >= start + memory.bytes) && memory.pages[i] != (char)0xff) emulator::fail("a kernel wrote beside its memory");
    munmap(memory.pages, memory.room + 4096);
    driver::allocations.erase(address);
    driver::used -= memory.bytes;
  });
  return 0;
}
int cuMemHostAlloc(void** at, size_t bytes, unsigned flags) {
  CALL(cuMemHostAlloc);
  if (flags != 1) return 1;
  *at = malloc(bytes);
  driver::pinned[(const char*)*at] = bytes;
  return 0;
}
int cuMemFreeHost(void* at) {
  CALL(cuMemFreeHost);
  if (!driver::pinned.erase((const char*)at)) return 1;
  free(at);
  return 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
  CALL(cuMemcpyHtoDAsync);
  if (!driver::holds(to, bytes) || !driver::is_pinned(from, bytes)) return 1;
  driver::send((Stream*)stream, [=] { memcpy((void*)to, from, bytes); });
  return 0;
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
  CALL(cuMemcpyDtoHAsync);
  if (!driver::holds(from, bytes) || !driver::is_pinned(to, bytes)) return 1;
  driver::send((Stream*)stream, [=] { memcpy(to, (void*)from, bytes); });
  return 0;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
  CALL(cuMemcpyDtoDAsync);
  if (!driver::holds(to, bytes) || !driver::holds(from, bytes)) return 1;
  driver::send((Stream*)stream, [=] { memmove((void*)to, (void*)from, bytes); });
  return 0;
}
int cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, void* stream) {
  CALL(cuMemsetD8Async);
  if (!driver::holds(at, bytes)) return 1;
  driver::send((Stream*)stream, [=] { memset((void*)at, value, bytes); });
  return 0;
}
int cuModuleLoadData(void** module, const void* image) {
  CALL(cuModuleLoadData);
  if (strncmp((const char*)image, "emulated:", 9)) return 200;
  *module = new std::string((const char*)image + 9);
  return 0;
}
int cuModuleUnload(void* module) { CALL(cuModuleUnload); delete (std::string*)module; return 0; }
int cuModuleGetFunction(void** function, void*, const char* name) {
  CALL(cuModuleGetFunction);
  auto found = driver::kernels().find(name);
  if (found == driver::kernels().end()) return 500;
  *function = (void*)&*found;
  return 0;
}
typedef std::pair<const std::string, emulator::Kernel> Named;
static std::map<const void*, int> shared_of;
int cuFuncSetAttribute(void* function, int attribute, int value) {
  CALL(cuFuncSetAttribute);
  if (attribute != 8 || value > 163 << 10) return 1;
  shared_of[function] = value;
  return 0;
}
int cuFuncGetParamInfo(void* function, size_t index, size_t* offset, size_t* size) {
  CALL(cuFuncGetParamInfo);
  if (index) return 1;
  *offset = 0, *size = ((Named*)function)->second.size;
  return 0;
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz, unsigned shared,
                   void* stream, void** params, void** extra) {
  CALL(cuLaunchKernel);
  auto kernel = (Named*)function;
  auto told = shared_of.find(function);
  if (!x || !y || y > 65535 || z != 1 || ty != 1 || tz != 1 || extra || threads != kernel->second.threads) return 1;
  if ((int)shared > (told == shared_of.end() ? 48 << 10 : told->second)) return 1;
  std::vector<uint64_t> argument((kernel->second.size + 7) / 8);
  memcpy(argument.data(), params[0], kernel->second.size);
  driver::send((Stream*)stream, [=] { emulator_launch(kernel->first.c_str(), x, y, shared, argument.data(), driver::seed++); });
  return 0;
}

// NVRTC: the kernels were compiled before
int nvrtcVersion(int* major, int* minor) { *major = 12, *minor = 99; return 0; }
const char* nvrtcGetErrorString(int) { return "emulated"; }
int nvrtcCreateProgram(void** program, const char* source, const char* name, int, const char* const*, const char* const*) {
  *program = new std::string(std::string("emulated:") + name);
  return source ? 0 : 1;
}
int nvrtcCompileProgram(void*, int count, const char* const* options) {
  return count > 0 && !strcmp(options[0], "--gpu-architecture=sm_80") ? 0 : 5;
}
int nvrtcGetProgramLogSize(void*, size_t* size) { *size = 1; return 0; }
int nvrtcGetProgramLog(void*, char* log) { *log = 0; return 0; }
int nvrtcGetCUBINSize(void* program, size_t* size) { *size = ((std::string*)program)->size() + 1; return 0; }
int nvrtcGetCUBIN(void* program, char* code) { strcpy(code, ((std::string*)program)->c_str()); return 0; }
int nvrtcDestroyProgram(void** program) { delete (std::string*)*program; return 0; }

// cuBLASLt: column by column, w transposed, as it is called
__attribute__((optimize("O3"))) static float dot(const float* x, const uint16_t* w, uint64_t n) {
  float parts[16] = {}, sum = 0.f;
  uint64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int j = 0; j < 16; j++) parts[j] += x[i + j] * __uint_as_float((unsigned)w[i + j] << 16);
  for (; i < n; i++) sum += x[i] * __uint_as_float((unsigned)w[i] << 16);
  for (float part : parts) sum += part;
  return sum;
}
struct Operation { int compute, scale, transpose_a = 0, epilogue = 1, bias_type = -1; uint64_t bias = 0; };
struct Layout { int type; uint64_t rows, columns; int64_t stride; };
struct Preference { uint64_t workspace = 0; uint32_t reductions = ~0u, aligned[4] = {}; };
struct Candidate { uint64_t algorithm[8]; size_t workspace; int state; float waves; int reserved[4]; };
int cublasLtCreate(void** handle) { if (!driver::is_current) return 1; *handle = (void*)7; return 0; }
int cublasLtMatmulDescCreate(void** operation, int compute, int scale) { *operation = new Operation{compute, scale}; return compute == 68 && scale == 0 ? 0 : 7; }
int cublasLtMatmulDescSetAttribute(void* operation, int attribute, const void* value, size_t bytes) {
  auto o = (Operation*)operation;
  if (bytes != (attribute == 8 ? 8 : 4)) return 7;
  if (attribute == 3) o->transpose_a = *(int*)value;
  else if (attribute == 7) o->epilogue = *(int*)value;
  else if (attribute == 26) o->bias_type = *(int*)value;
  else if (attribute == 8) o->bias = *(uint64_t*)value;
  else return 7;
  return 0;
}
int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
  if (stride < (int64_t)rows) return 7;
  *layout = new Layout{type, rows, columns, stride};
  return 0;
}
int cublasLtMatmulPreferenceCreate(void** preference) { *preference = new Preference; return 0; }
int cublasLtMatmulPreferenceDestroy(void* preference) { delete (Preference*)preference; return 0; }
int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t bytes) {
  auto p = (Preference*)preference;
  if (attribute == 1 && bytes == 8) p->workspace = *(uint64_t*)value;
  else if (attribute == 3 && bytes == 4) p->reductions = *(uint32_t*)value;
  else if (attribute >= 5 && attribute <= 8 && bytes == 4) p->aligned[attribute - 5] = *(uint32_t*)value;
  else return 7;
  return 0;
}
int cublasLtMatmulAlgoGetHeuristic(void*, void* operation, void* a, void* b, void* c, void* d, void* preference, int, Candidate* found, int* count) {
  auto o = (Operation*)operation;
  auto la = (Layout*)a, lb = (Layout*)b, ld = (Layout*)d;
  auto p = (Preference*)preference;
  if (o->transpose_a != 1 || c != d || la->type != 14 || lb->type != 14 || p->reductions || !p->workspace) return 7;
  if (la->rows != lb->rows || la->columns != ld->rows || lb->columns != ld->columns) return 7;
  if (o->epilogue == 4 && o->bias_type != ld->type) return 7;
  // products of one row have no way here, so that the plain kernel is tried too
  *count = lb->columns > 1;
  *found = {{42}, 0, 0, 1.f, {}};
  return 0;
}
int cublasLtMatmul(void*, void* operation, const float* alpha, uint64_t a, void* la, uint64_t b, void* lb, const float* beta, uint64_t c,
                   void*, uint64_t d, void* ld, const uint64_t* algorithm, uint64_t workspace, size_t bytes, void* stream) {
  std::lock_guard<std::recursive_mutex> lock(driver::turn);
  if (int rc = driver::enter("cublasLtMatmul")) return rc;
  auto o = *(Operation*)operation;
  auto w = *(Layout*)la, x = *(Layout*)lb, y = *(Layout*)ld;
  if (algorithm[0] != 42 || c != d || *alpha != 1.f || !driver::holds(workspace, bytes)) return 7;
  auto ends = [](uint64_t at, const Layout& l) { return driver::holds(at, ((l.columns - 1) * l.stride + l.rows) * (l.type ? 2 : 4)); };
  if (!ends(a, w) || !ends(b, x) || !ends(d, y)) return 7;
  float keep = *beta;
  driver::send((Stream*)stream, [=] {
    std::vector<float> row(w.rows);
    for (uint64_t i = 0; i < y.columns; i++) {
      for (uint64_t p = 0; p < w.rows; p++) row[p] = __uint_as_float((unsigned)((const uint16_t*)b)[i * x.stride + p] << 16);
      for (uint64_t j = 0; j < y.rows; j++) {
        float sum = dot(row.data(), (const uint16_t*)a + j * w.stride, w.rows);
        if (o.epilogue == 4) sum += y.type ? __uint_as_float((unsigned)((const uint16_t*)o.bias)[j] << 16) : ((const float*)o.bias)[j];
        uint64_t at = i * y.stride + j;
        if (y.type) {
          auto to = (uint16_t*)d + at;
          *to = (uint16_t)rounded_bf16(keep ? sum + __uint_as_float((unsigned)*to << 16) : sum);
        } else {
          auto to = (float*)d + at;
          *to = keep ? sum + *to : sum;
        }
      }
    }
  });
  return 0;
}
}
