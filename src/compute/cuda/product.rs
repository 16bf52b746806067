//! Matrix products: what is multiplied, and cuBLASLt, which multiplies it.
//!
//! The library's functions are looked up by name in the file that [`Libraries`] finds, as those of NVRTC are. A plan (operation,
//! layouts, algorithm) is made once for each shape and kept.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::Library;

use super::Libraries;
use super::api::Handle;

/// `y[i, j] = sum_p x[i, p] w[j, p] + bias[j]`, added to what `y` holds if `adds`. Addresses are of bfloat16 numbers, but that of
/// a `y` of floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// `[n, n_in]`, from a row to the next `x_stride`.
    pub x: u64,
    /// `[n_out, n_in]`, from a row to the next `w_stride`.
    pub w: u64,
    /// `[n_out]` of the same type as `y`, or 0.
    pub bias: u64,
    /// `[n, n_out]`, from a row to the next `y_stride`.
    pub y: u64,
    /// Its sizes.
    pub shape: ProductShape,
}

/// The sizes of a [`Product`]: of all that agree in them one plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProductShape {
    /// Rows of `x` and `y`.
    pub n: usize,
    /// Columns of `x` and `w`.
    pub n_in: usize,
    /// Rows of `w`, columns of `y`.
    pub n_out: usize,
    /// Numbers from a row of `x` to the next.
    pub x_stride: usize,
    /// Numbers from a row of `w` to the next.
    pub w_stride: usize,
    /// Numbers from a row of `y` to the next.
    pub y_stride: usize,
    /// Whether `y` are floats, not bfloat16.
    pub float_out: bool,
    /// Whether there is a bias.
    pub has_bias: bool,
    /// Whether the product is added to what `y` holds.
    pub adds: bool,
}

impl ProductShape {
    /// Panics unless rows do not overlap and can be read in vectors, and sizes are those of a launch.
    pub(super) fn check(&self) {
        let Self { n, n_in, n_out, x_stride, w_stride, y_stride, .. } = *self;
        assert!(n_in <= x_stride && n_in <= w_stride && n_out <= y_stride, "{self:?}");
        assert!([n_in, x_stride, w_stride].iter().all(|width| width % super::kernels::VECTOR == 0), "{self:?}");
        assert!([n, n_in, n_out].iter().all(|&size| size <= i32::MAX as usize), "{self:?}");
    }
}

type Status = c_int;
type Create = unsafe extern "C" fn(*mut Handle) -> Status;
type Destroy = unsafe extern "C" fn(Handle) -> Status;
type CreateOperation = unsafe extern "C" fn(*mut Handle, c_int, c_int) -> Status;
type CreateLayout = unsafe extern "C" fn(*mut Handle, c_int, u64, u64, i64) -> Status;
type SetAttribute = unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> Status;
type Heuristic = unsafe extern "C" fn(
    Handle,
    Handle,
    Handle,
    Handle,
    Handle,
    Handle,
    Handle,
    c_int,
    *mut Candidate,
    *mut c_int,
) -> Status;
type Multiply = unsafe extern "C" fn(
    Handle,
    Handle,
    *const c_void,
    u64,
    Handle,
    u64,
    Handle,
    *const c_void,
    u64,
    Handle,
    u64,
    Handle,
    *const Algorithm,
    u64,
    usize,
    Handle,
) -> Status;

/// `CUBLAS_COMPUTE_32F`.
const SUMS_FLOAT: c_int = 68;
/// `CUDA_R_32F` and `CUDA_R_16BF`.
const FLOAT: c_int = 0;
const BF16: c_int = 14;
/// `CUBLASLT_MATMUL_DESC_TRANSA`, `_EPILOGUE`, `_BIAS_POINTER`, `_BIAS_DATA_TYPE`.
const TRANSPOSE_A: c_int = 3;
const EPILOGUE: c_int = 7;
const BIAS_ADDRESS: c_int = 8;
const BIAS_TYPE: c_int = 26;
/// `CUBLAS_OP_T`, `CUBLASLT_EPILOGUE_BIAS`.
const TRANSPOSED: c_int = 1;
const ADD_BIAS: c_int = 4;
/// `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`, `_REDUCTION_SCHEME_MASK`, `_MIN_ALIGNMENT_A_BYTES` and the three after it.
const MOST_WORKSPACE: c_int = 1;
const REDUCTIONS: c_int = 3;
const ALIGNMENTS: [c_int; 4] = [5, 6, 7, 8];
/// Bytes of scratch for a product: what the library recommends for Hopper.
pub(super) const WORKSPACE: usize = 32 << 20;

/// `cublasLtMatmulAlgo_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Algorithm([u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Candidate {
    algorithm: Algorithm,
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

/// What a call said that failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) call: &'static str,
    pub(super) code: i32,
}

/// cuBLASLt, and the plans of the products so far. It belongs to the thread that owns the device.
pub(super) struct CublasLt {
    path: PathBuf,
    handle: Handle,
    functions: Functions,
    plans: HashMap<(ProductShape, usize), Plan>,
}

struct Functions {
    create_operation: CreateOperation,
    set_operation: SetAttribute,
    create_layout: CreateLayout,
    create_preference: Create,
    set_preference: SetAttribute,
    destroy_preference: Destroy,
    heuristic: Heuristic,
    multiply: Multiply,
}

struct Plan {
    operation: Handle,
    w: Handle,
    x: Handle,
    y: Handle,
    algorithm: Algorithm,
}

/// Opens the library, from the folders or where the loader finds it.
#[allow(unsafe_code)]
impl CublasLt {
    /// # Errors
    /// In words: why it cannot be opened, or what it lacks.
    pub(super) fn open(libraries: &Libraries) -> Result<Self, String> {
        let (library, path) = libraries.open("cublasLt")?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the types are those of `cublasLt.h`; the context is current on this thread.
        let functions = unsafe {
            let create: Create = symbol(library, &path, "cublasLtCreate")?;
            let code = create(&mut handle);
            if code != 0 {
                return Err(format!("`{}`: cublasLtCreate says {code}", path.display()));
            }
            Functions {
                create_operation: symbol(library, &path, "cublasLtMatmulDescCreate")?,
                set_operation: symbol(library, &path, "cublasLtMatmulDescSetAttribute")?,
                create_layout: symbol(library, &path, "cublasLtMatrixLayoutCreate")?,
                create_preference: symbol(library, &path, "cublasLtMatmulPreferenceCreate")?,
                set_preference: symbol(library, &path, "cublasLtMatmulPreferenceSetAttribute")?,
                destroy_preference: symbol(library, &path, "cublasLtMatmulPreferenceDestroy")?,
                heuristic: symbol(library, &path, "cublasLtMatmulAlgoGetHeuristic")?,
                multiply: symbol(library, &path, "cublasLtMatmul")?,
            }
        };
        Ok(Self { path, handle, functions, plans: HashMap::new() })
    }

    /// The library's file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Enqueue `product`, with [`WORKSPACE`] bytes at `workspace`.
    pub(super) fn multiply(&mut self, product: &Product, workspace: u64, stream: Handle) -> Result<(), Failed> {
        let aligned = alignment(product);
        let key = (product.shape, aligned);
        if !self.plans.contains_key(&key) {
            let plan = self.plan(&product.shape, aligned)?;
            self.plans.insert(key, plan);
        }
        let plan = &self.plans[&key];
        let (alpha, beta) = (1f32, if product.shape.adds { 1f32 } else { 0f32 });
        // SAFETY: the types are those of the calls; descriptions live in the plan, scalars outlive the call, and addresses are of
        // the device's memory, for whose sizes the caller of the product vouches.
        unsafe {
            if product.shape.has_bias {
                let address = std::ptr::from_ref(&product.bias).cast();
                let code = (self.functions.set_operation)(plan.operation, BIAS_ADDRESS, address, size_of::<u64>());
                check("cublasLtMatmulDescSetAttribute", code)?;
            }
            let code = (self.functions.multiply)(
                self.handle,
                plan.operation,
                std::ptr::from_ref(&alpha).cast(),
                product.w,
                plan.w,
                product.x,
                plan.x,
                std::ptr::from_ref(&beta).cast(),
                product.y,
                plan.y,
                product.y,
                plan.y,
                &plan.algorithm,
                workspace,
                WORKSPACE,
                stream,
            );
            check("cublasLtMatmul", code)
        }
    }

    /// The library stores columns where we store rows: it computes `y^T = w x^T`, with `w` given transposed.
    fn plan(&self, shape: &ProductShape, aligned: usize) -> Result<Plan, Failed> {
        let functions = &self.functions;
        let y_type = if shape.float_out { FLOAT } else { BF16 };
        let (mut operation, mut preference) = (std::ptr::null_mut(), std::ptr::null_mut());
        let number = |value: &c_int| std::ptr::from_ref(value).cast::<c_void>();
        // SAFETY: the types are those of the calls; what attributes are set from outlives the calls, with its size.
        unsafe {
            check("cublasLtMatmulDescCreate", (functions.create_operation)(&mut operation, SUMS_FLOAT, FLOAT))?;
            let set = |attribute, value: c_int| {
                let code = (functions.set_operation)(operation, attribute, number(&value), size_of::<c_int>());
                check("cublasLtMatmulDescSetAttribute", code)
            };
            set(TRANSPOSE_A, TRANSPOSED)?;
            if shape.has_bias {
                set(EPILOGUE, ADD_BIAS)?;
                set(BIAS_TYPE, y_type)?;
            }
            let w = self.layout(BF16, shape.n_in, shape.n_out, shape.w_stride)?;
            let x = self.layout(BF16, shape.n_in, shape.n, shape.x_stride)?;
            let y = self.layout(y_type, shape.n_out, shape.n, shape.y_stride)?;
            check("cublasLtMatmulPreferenceCreate", (functions.create_preference)(&mut preference))?;
            let prefer = |attribute, value: *const c_void, size| {
                let code = (functions.set_preference)(preference, attribute, value, size);
                check("cublasLtMatmulPreferenceSetAttribute", code)
            };
            prefer(MOST_WORKSPACE, std::ptr::from_ref(&WORKSPACE).cast(), size_of::<usize>())?;
            // no sums in an order that is not fixed
            prefer(REDUCTIONS, std::ptr::from_ref(&0u32).cast(), size_of::<u32>())?;
            for attribute in ALIGNMENTS {
                prefer(attribute, std::ptr::from_ref(&(aligned as u32)).cast(), size_of::<u32>())?;
            }
            let (mut candidate, mut found) = (Candidate::default(), 0);
            let code =
                (functions.heuristic)(self.handle, operation, w, x, y, y, preference, 1, &mut candidate, &mut found);
            (functions.destroy_preference)(preference);
            check("cublasLtMatmulAlgoGetHeuristic", code)?;
            check("cublasLtMatmulAlgoGetHeuristic", if found == 0 { NOT_SUPPORTED } else { candidate.state })?;
            Ok(Plan { operation, w, x, y, algorithm: candidate.algorithm })
        }
    }

    fn layout(&self, kind: c_int, rows: usize, columns: usize, stride: usize) -> Result<Handle, Failed> {
        let mut layout = std::ptr::null_mut();
        // SAFETY: the type is that of the call, which writes one pointer.
        let code =
            unsafe { (self.functions.create_layout)(&mut layout, kind, rows as u64, columns as u64, stride as i64) };
        check("cublasLtMatrixLayoutCreate", code).map(|()| layout)
    }
}

/// `CUBLAS_STATUS_NOT_SUPPORTED`.
const NOT_SUPPORTED: c_int = 15;

/// Bytes to which all addresses of a product are aligned, at most 256.
fn alignment(product: &Product) -> usize {
    let all = product.x | product.w | product.y | product.bias | 256;
    1 << all.trailing_zeros()
}

fn check(call: &'static str, code: c_int) -> Result<(), Failed> {
    if code == 0 { Ok(()) } else { Err(Failed { call, code }) }
}

/// # Safety
/// `F` must be the function's type.
#[allow(unsafe_code)]
unsafe fn symbol<F: Copy>(library: &'static Library, path: &Path, name: &'static str) -> Result<F, String> {
    // SAFETY: the caller vouches for the type; the library is never closed.
    unsafe { library.get::<F>(name) }.map(|f| *f).map_err(|_| format!("`{}` has no `{name}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_aligned_address_counts() {
        let shape = ProductShape {
            n: 1,
            n_in: 8,
            n_out: 8,
            x_stride: 8,
            w_stride: 8,
            y_stride: 8,
            float_out: false,
            has_bias: false,
            adds: false,
        };
        let product = Product { x: 0x1000, w: 0x1010, bias: 0, y: 0x2000, shape };
        assert_eq!((alignment(&product), alignment(&Product { w: 0x3000, ..product })), (16, 256));
        assert_eq!(size_of::<Candidate>(), 96);
    }
}
