// What a build says of itself. The schemas of the ops are not here: each follows from the signature of its reference in
// lps_kernels/ops, so that an op has one without a compiler too, and every file beside this one registers its kernels.
#include <string>

#include "tensor.h"

namespace lps {

static std::string build_info() {
  return std::string(LPS_LEVEL) + ", compiler " + __VERSION__;
}

}  // namespace lps

STABLE_TORCH_LIBRARY_FRAGMENT(lps_kernels, m) {
  m.def("build_info() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&lps::build_info));
}
