// What a build says of itself, read from the file where it can't be loaded too: lps_kernels/native.py.
namespace lps::cuda {

extern const char kBuild[];
__attribute__((used, visibility("default"))) const char kBuild[] = "lps_kernels CUDA build: " LPS_CUDA_BUILD;

}  // namespace lps::cuda
