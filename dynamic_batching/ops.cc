// TensorFlow ops over the batching core.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "dynamic_batching/batcher.h"
#include "ops_stamp.h"
#include "tensorflow/core/common_runtime/process_function_library_runtime.h"
#include "tensorflow/core/framework/cancellation.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_base.h"
#include "tensorflow/core/framework/resource_handle.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/tensor_util.h"

namespace impala {
namespace {

namespace tf = tensorflow;
using Clock = std::chrono::steady_clock;

REGISTER_OP("ImpalaBatcher")
    .Input("captured: Tcaptured")
    .Output("batcher: resource")
    .Attr("f: func")
    .Attr("Tcaptured: list(type) >= 0")
    .Attr("minimum_batch_size: int")
    .Attr("maximum_batch_size: int")
    .Attr("timeout_ms: int")
    .SetIsStateful()
    .SetShapeFn(tf::shape_inference::ScalarShape)
    .Doc(
        "Makes a batcher of calls of `f`, whose last arguments are `captured`. "
        "It lives as long as a handle to it.");

// Knows nothing of the function: eager calls of ops that do are slower.
REGISTER_OP("ImpalaBatch")
    .Input("batcher: resource")
    .Input("inputs: Tin")
    .Input("reads: num_reads * resource")
    .Output("outputs: Tout")
    .Attr("Tin: list(type) >= 1")
    .Attr("num_reads: int >= 0")
    .Attr("Tout: list(type) >= 1")
    .SetIsStateful()
    .SetShapeFn(tf::shape_inference::UnknownShape)
    .Doc(
        "Calls the batcher's function on the rows of this and of concurrent "
        "calls at once. `reads` only say what the function reads.");

REGISTER_OP("ImpalaBatcherClose")
    .Input("batcher: resource")
    .SetIsStateful()
    .SetShapeFn(tf::shape_inference::NoOutputs)
    .Doc("Cancels what waits and what runs, and refuses further calls.");

REGISTER_OP("ImpalaBatcherStatistics")
    .Input("batcher: resource")
    .Output("statistics: int64")
    .SetIsStateful()
    .SetShapeFn([](tf::shape_inference::InferenceContext* c) {
      c->set_output(0, c->Vector(3));
      return absl::OkStatus();
    })
    .Doc("Since the start: batches run, rows in them, nanoseconds waited.");

// A call of ImpalaBatch, from ComputeAsync until its outputs are set.
class Call : public Request {
 public:
  Call(int64_t rows, std::shared_ptr<void> batcher,
       tf::OpKernelContext* context, tf::AsyncOpKernel::DoneCallback done)
      : Request(rows),
        batcher_(std::move(batcher)),
        context_(context),
        done_(std::move(done)) {}

  // Whoever gets true, once, is to call Finish; nobody else may touch context.
  bool Claim() { return !claimed_.exchange(true); }
  bool claimed() const { return claimed_.load(); }

  tf::OpKernelContext* context() { return context_; }

  // Ends the call. Requires Claim().
  void Finish(const absl::Status& status) {
    if (!status.ok()) context_->SetStatus(status);
    tf::AsyncOpKernel::DoneCallback done = std::move(done_);
    done();
  }

  // Copies of the context's, which may be gone while a batch still runs. Once
  // added, only the thread that starts the batch may touch them: the call may
  // be cancelled, and finish, meanwhile.
  std::vector<tf::Tensor> inputs;
  tf::CancellationToken token = tf::CancellationManager::kInvalidToken;

 private:
  // A batch may outlive its callers, and with them the batcher's handles.
  const std::shared_ptr<void> batcher_;
  tf::OpKernelContext* const context_;
  tf::AsyncOpKernel::DoneCallback done_;
  std::atomic<bool> claimed_{false};
};

// Fails the call, unless it has ended already.
void Fail(Call* call, const absl::Status& status) {
  if (!call->Claim()) return;
  if (auto* manager = call->context()->cancellation_manager()) {
    manager->TryDeregisterCallback(call->token);
  }
  call->Finish(status);
}

// Joins the calls' rows, input by input, and takes the inputs away from them.
absl::Status Join(const std::vector<Call*>& calls,
                  std::vector<tf::Tensor>* arguments) {
  if (calls.size() == 1) {
    *arguments = std::move(calls[0]->inputs);
    return absl::OkStatus();
  }
  const size_t num_inputs = calls[0]->inputs.size();
  for (size_t i = 0; i < num_inputs; ++i) {
    std::vector<tf::Tensor> rows;
    rows.reserve(calls.size());
    for (Call* call : calls) rows.push_back(std::move(call->inputs[i]));
    tf::Tensor joined;
    TF_RETURN_IF_ERROR(tf::tensor::Concat(rows, &joined));
    arguments->push_back(std::move(joined));
  }
  return absl::OkStatus();
}

absl::Status CheckRows(const std::vector<tf::Tensor>& results, int64_t rows) {
  for (size_t i = 0; i < results.size(); ++i) {
    const tf::TensorShape& shape = results[i].shape();
    if (shape.dims() == 0 || shape.dim_size(0) != rows) {
      return absl::InvalidArgumentError(absl::StrCat(
          "Output ", i, " of the batched function has shape ",
          shape.DebugString(), ", but its leading dimension must be ",
          "the batch size, ", rows, "."));
    }
  }
  return absl::OkStatus();
}

// Returns some rows of a batch. They share its memory where kernels can read
// them there, which need them aligned.
tf::Tensor Rows(const tf::Tensor& batch, int64_t begin, int64_t end) {
  tf::Tensor rows = batch.Slice(begin, end);
  return rows.IsAligned() ? rows : tf::tensor::DeepCopy(rows);
}

// Whether `call` can share a batch with `first`.
bool SameRowShapes(const Call& first, const Call& call) {
  for (size_t i = 0; i < first.inputs.size(); ++i) {
    tf::TensorShape a = first.inputs[i].shape();
    tf::TensorShape b = call.inputs[i].shape();
    a.set_dim(0, 1);
    b.set_dim(0, 1);
    if (a != b) return false;
  }
  return true;
}

absl::Status Closed() { return absl::CancelledError("The batcher is closed."); }

// A function in a library of its own: the libraries of callers go with them,
// even while a batch runs that they are part of. Thread-safe.
class Function {
 public:
  // `captured` are the function's last arguments.
  static absl::StatusOr<std::unique_ptr<Function>> Make(
      const tf::NameAttrList& function, std::vector<tf::Tensor> captured,
      tf::FunctionLibraryRuntime* library) {
    const tf::FunctionLibraryDefinition& all =
        *library->GetFunctionLibraryDefinition();
    const tf::FunctionDef* definition = all.Find(function.name());
    if (definition == nullptr) {
      return absl::NotFoundError(
          absl::StrCat("There is no function ", function.name(), "."));
    }
    auto made = absl::WrapUnique(new Function);
    TF_RETURN_IF_ERROR(library->Clone(&made->definitions_, &made->process_,
                                      &made->library_,
                                      /*skip_flib_def=*/true));
    // Through protos, which hold no Python stack traces: to release those needs
    // the interpreter, which may be on its way out.
    tf::FunctionDefLibrary needed =
        all.ReachableDefinitions(*definition).ToProto();
    *needed.add_function() = *definition;
    TF_RETURN_IF_ERROR(made->definitions_->AddLibrary(needed));
    // Rows are joined and dealt in host memory; the function may well run on
    // another device, such as that of the variables it captured.
    tf::Device* host;
    TF_RETURN_IF_ERROR(
        made->library_->device_mgr()->LookupDevice("CPU:0", &host));
    tf::FunctionLibraryRuntime::InstantiateOptions options;
    options.target = host->name();
    options.is_multi_device_function = true;
    if (made->library_->config_proto() != nullptr) {
      options.config_proto = *made->library_->config_proto();
    }
    const tf::OpDef& signature = definition->signature();
    const size_t num_arguments = signature.input_arg_size();
    if (num_arguments < captured.size()) {
      return absl::InvalidArgumentError("There are more captured than taken.");
    }
    options.input_devices.assign(num_arguments - captured.size(), host->name());
    for (const tf::Tensor& tensor : captured) {
      options.input_devices.push_back(
          tensor.dtype() == tf::DT_RESOURCE
              ? tensor.flat<tf::ResourceHandle>()(0).device()
              : host->name());
    }
    options.output_devices.assign(signature.output_arg_size(), host->name());
    TF_RETURN_IF_ERROR(made->library_->Instantiate(
        function.name(), tf::AttrSlice(&function.attr()), options,
        &made->handle_));
    made->captured_ = std::move(captured);
    return made;
  }

  void Run(const tf::FunctionLibraryRuntime::Options& options,
           std::vector<tf::Tensor> arguments, std::vector<tf::Tensor>* results,
           tf::FunctionLibraryRuntime::DoneCallback done) {
    arguments.insert(arguments.end(), captured_.begin(), captured_.end());
    library_->Run(options, handle_, arguments, results, std::move(done));
  }

  const tf::DeviceMgr* devices() const { return library_->device_mgr(); }

 private:
  Function() = default;

  std::vector<tf::Tensor> captured_;
  std::unique_ptr<tf::FunctionLibraryDefinition> definitions_;
  std::unique_ptr<tf::ProcessFunctionLibraryRuntime> process_;
  tf::FunctionLibraryRuntime* library_ = nullptr;  // Owned by process_.
  tf::FunctionLibraryRuntime::Handle handle_ = 0;
};

// A batcher that runs a TensorFlow function. Thread-safe.
class FunctionBatcher {
 public:
  FunctionBatcher(const BatcherOptions& options,
                  std::unique_ptr<Function> function)
      : options_(options),
        function_(std::move(function)),
        batcher_(std::make_unique<Batcher>(
            options, [this](Batcher::Batch batch) { Run(std::move(batch)); })) {
  }

  ~FunctionBatcher() {
    if (!batcher_->OnOwnThread()) return;
    // The last reference went with a batch that ended on the thread, which
    // must not wait for itself.
    std::thread([batcher = std::move(batcher_)] {}).detach();
  }

  const BatcherOptions& options() const { return options_; }
  Batcher* batcher() { return batcher_.get(); }

  // Ends every call that waits or runs, at once: the function that runs is
  // told to stop, but might not listen.
  void Close() {
    for (auto& request : batcher_->Close()) {
      Fail(static_cast<Call*>(request.get()), Closed());
    }
    std::shared_ptr<Running> running;
    {
      std::lock_guard<std::mutex> lock(mu_);
      closed_ = true;
      running = running_;
    }
    if (running == nullptr) return;
    for (Call* call : running->calls) Fail(call, Closed());
    running->cancellation.StartCancel();
  }

  int64_t batches() const { return batches_; }
  int64_t rows() const { return rows_; }
  int64_t nanoseconds_waited() const { return nanoseconds_waited_; }

 private:
  struct Running {
    explicit Running(const tf::DeviceMgr* devices)
        : step_container(options.step_id, [devices](const std::string& name) {
            for (tf::Device* device : devices->ListDevices()) {
              device->resource_manager()->Cleanup(name).IgnoreError();
            }
          }) {
      options.step_container = &step_container;
      options.cancellation_manager = &cancellation;
      // On the batcher's thread: nothing that callers do on the threads that
      // all share, such as to block them, may hold up the batch they wait for.
      options.run_all_kernels_inline = true;
    }

    Batcher::Batch batch;  // Keeps what `calls` points to, and this batcher.
    std::vector<Call*> calls;
    int64_t rows = 0;
    std::vector<tf::Tensor> results;
    tf::FunctionLibraryRuntime::Options options;
    tf::ScopedStepContainer step_container;
    // Of this batch alone: an error in the function cancels it.
    tf::CancellationManager cancellation;
  };

  void Run(Batcher::Batch batch) {
    auto running = std::make_shared<Running>(function_->devices());
    running->batch = std::move(batch);
    for (auto& request : running->batch) {
      auto* call = static_cast<Call*>(request.get());
      if (call->claimed()) continue;
      if (!running->calls.empty() &&
          !SameRowShapes(*running->calls[0], *call)) {
        Fail(call, absl::InvalidArgumentError(
                       "The inputs' shapes differ from those of the other "
                       "calls in the batch beyond the batch dimension."));
        continue;
      }
      running->calls.push_back(call);
      running->rows += call->rows;
    }
    if (running->calls.empty()) return batcher_->BatchDone();
    std::vector<tf::Tensor> arguments;
    absl::Status status = Join(running->calls, &arguments);
    {
      std::lock_guard<std::mutex> lock(mu_);
      if (closed_) status = Closed();
      if (status.ok()) running_ = running;
    }
    if (!status.ok()) return End(running.get(), status);
    function_->Run(running->options, std::move(arguments), &running->results,
                   [this, running](const absl::Status& status) {
                     End(running.get(), status);
                   });
  }

  void End(Running* running, absl::Status status) {
    if (status.ok()) status = CheckRows(running->results, running->rows);
    const auto now = Clock::now();
    batches_ += 1;
    rows_ += running->rows;
    for (Call* call : running->calls) {
      nanoseconds_waited_ += (now - call->arrival).count() * call->rows;
    }
    {
      std::lock_guard<std::mutex> lock(mu_);
      running_.reset();
    }
    int64_t begin = 0, end = 0;
    for (Call* call : running->calls) {
      begin = std::exchange(end, end + call->rows);
      if (!status.ok()) {
        Fail(call, status);
        continue;
      }
      if (!call->Claim()) continue;
      if (auto* manager = call->context()->cancellation_manager()) {
        manager->TryDeregisterCallback(call->token);
      }
      for (size_t i = 0; i < running->results.size(); ++i) {
        call->context()->set_output(i, Rows(running->results[i], begin, end));
      }
      call->Finish(absl::OkStatus());
    }
    batcher_->BatchDone();
  }

  const BatcherOptions options_;
  std::atomic<int64_t> batches_{0};
  std::atomic<int64_t> rows_{0};
  std::atomic<int64_t> nanoseconds_waited_{0};
  std::mutex mu_;
  bool closed_ = false;               // Guarded by mu_.
  std::shared_ptr<Running> running_;  // Guarded by mu_.
  const std::unique_ptr<Function> function_;
  std::unique_ptr<Batcher> batcher_;
};

// What handles hold: a batch may need the batcher for longer.
struct Resource : public tf::ResourceBase {
  explicit Resource(std::shared_ptr<FunctionBatcher> batcher)
      : batcher(std::move(batcher)) {}

  std::string DebugString() const override { return "ImpalaBatcher"; }

  const std::shared_ptr<FunctionBatcher> batcher;
};

absl::StatusOr<std::shared_ptr<FunctionBatcher>> Lookup(
    tf::OpKernelContext* context) {
  const tf::Tensor& handle = context->input(0);
  if (!tf::TensorShapeUtils::IsScalar(handle.shape())) {
    return absl::InvalidArgumentError("A batcher's handle must be a scalar.");
  }
  TF_ASSIGN_OR_RETURN(
      Resource * resource,
      handle.scalar<tf::ResourceHandle>()().GetResource<Resource>());
  if (resource == nullptr) {
    return absl::InvalidArgumentError("The handle is not a batcher's.");
  }
  return resource->batcher;
}

class BatcherOp : public tf::OpKernel {
 public:
  explicit BatcherOp(tf::OpKernelConstruction* context)
      : tf::OpKernel(context) {
    int64_t timeout_ms;
    OP_REQUIRES_OK(context, context->GetAttr("f", &function_));
    OP_REQUIRES_OK(context, context->GetAttr("minimum_batch_size",
                                             &options_.minimum_batch_size));
    OP_REQUIRES_OK(context, context->GetAttr("maximum_batch_size",
                                             &options_.maximum_batch_size));
    OP_REQUIRES_OK(context, context->GetAttr("timeout_ms", &timeout_ms));
    OP_REQUIRES(context,
                1 <= options_.minimum_batch_size &&
                    options_.minimum_batch_size <= options_.maximum_batch_size,
                absl::InvalidArgumentError(
                    "1 <= minimum_batch_size <= maximum_batch_size must hold"));
    OP_REQUIRES(context, timeout_ms >= 0,
                absl::InvalidArgumentError("timeout_ms must not be negative"));
    // Deadlines are in nanoseconds, which must not overflow.
    options_.timeout = std::min<std::chrono::milliseconds>(
        std::chrono::milliseconds(timeout_ms), std::chrono::hours(24 * 365));
  }

  void Compute(tf::OpKernelContext* context) override {
    tf::OpInputList captured;
    OP_REQUIRES_OK(context, context->input_list("captured", &captured));
    auto function =
        Function::Make(function_, {captured.begin(), captured.end()},
                       context->function_library());
    OP_REQUIRES_OK(context, function.status());
    tf::Tensor* handle;
    OP_REQUIRES_OK(context, context->allocate_output(0, {}, &handle));
    handle->scalar<tf::ResourceHandle>()() =
        tf::ResourceHandle::MakeRefCountingHandle(
            new Resource(std::make_shared<FunctionBatcher>(
                options_, *std::move(function))),
            context->device()->name());
  }

 private:
  tf::NameAttrList function_;
  BatcherOptions options_;
};

class BatchOp : public tf::AsyncOpKernel {
 public:
  using tf::AsyncOpKernel::AsyncOpKernel;

  void ComputeAsync(tf::OpKernelContext* context, DoneCallback done) override {
    auto found = Lookup(context);
    OP_REQUIRES_OK_ASYNC(context, found.status(), done);
    const std::shared_ptr<FunctionBatcher> batcher = *std::move(found);
    tf::OpInputList inputs;
    OP_REQUIRES_OK_ASYNC(context, context->input_list("inputs", &inputs), done);
    for (const tf::Tensor& input : inputs) {
      OP_REQUIRES_ASYNC(
          context,
          input.dims() > 0 && input.dim_size(0) == inputs[0].dim_size(0),
          absl::InvalidArgumentError(absl::StrCat(
              "All inputs need the same leading batch dimension; got shape ",
              input.shape().DebugString(), " beside ",
              inputs[0].shape().DebugString(), ".")),
          done);
    }
    const int64_t rows = inputs[0].dim_size(0);
    const int64_t maximum = batcher->options().maximum_batch_size;
    OP_REQUIRES_ASYNC(context, rows <= maximum,
                      absl::InvalidArgumentError(
                          absl::StrCat("A call of ", rows, " rows exceeds the ",
                                       "maximum_batch_size of ", maximum, ".")),
                      done);

    auto call = std::make_shared<Call>(rows, batcher, context, std::move(done));
    call->inputs.assign(inputs.begin(), inputs.end());

    // From here on the context may be gone at any moment.
    auto* manager = context->cancellation_manager();
    if (manager != nullptr) {
      call->token = manager->get_cancellation_token();
      const bool registered = manager->RegisterCallback(
          call->token, [call, batcher = batcher.get()] {
            if (!call->Claim()) return;
            batcher->batcher()->Remove(call.get());
            call->Finish(Cancelled());
          });
      if (!registered) return Fail(call.get(), Cancelled());
    }
    if (!batcher->batcher()->Add(call)) return Fail(call.get(), Closed());
    // Cancelled before it was there to be removed?
    if (call->claimed()) batcher->batcher()->Remove(call.get());
  }

 private:
  static absl::Status Cancelled() {
    return absl::CancelledError("The call was cancelled.");
  }
};

class CloseOp : public tf::OpKernel {
 public:
  using tf::OpKernel::OpKernel;

  void Compute(tf::OpKernelContext* context) override {
    auto batcher = Lookup(context);
    OP_REQUIRES_OK(context, batcher.status());
    (*batcher)->Close();
  }
};

class StatisticsOp : public tf::OpKernel {
 public:
  using tf::OpKernel::OpKernel;

  void Compute(tf::OpKernelContext* context) override {
    auto batcher = Lookup(context);
    OP_REQUIRES_OK(context, batcher.status());
    tf::Tensor* statistics;
    OP_REQUIRES_OK(context, context->allocate_output(0, {3}, &statistics));
    auto flat = statistics->vec<int64_t>();
    flat(0) = (*batcher)->batches();
    flat(1) = (*batcher)->rows();
    flat(2) = (*batcher)->nanoseconds_waited();
  }
};

REGISTER_KERNEL_BUILDER(Name("ImpalaBatcher").Device(tf::DEVICE_CPU),
                        BatcherOp);
REGISTER_KERNEL_BUILDER(Name("ImpalaBatch").Device(tf::DEVICE_CPU), BatchOp);
REGISTER_KERNEL_BUILDER(Name("ImpalaBatcherClose").Device(tf::DEVICE_CPU),
                        CloseOp);
REGISTER_KERNEL_BUILDER(Name("ImpalaBatcherStatistics").Device(tf::DEVICE_CPU),
                        StatisticsOp);
// TensorFlow places an op with its resources, and captured variables may be
// anywhere; all else stays in host memory.
REGISTER_KERNEL_BUILDER(Name("ImpalaBatcher")
                            .Device(tf::DEVICE_DEFAULT)
                            .HostMemory("captured")
                            .HostMemory("batcher"),
                        BatcherOp);
REGISTER_KERNEL_BUILDER(Name("ImpalaBatch")
                            .Device(tf::DEVICE_DEFAULT)
                            .HostMemory("batcher")
                            .HostMemory("inputs")
                            .HostMemory("reads")
                            .HostMemory("outputs"),
                        BatchOp);
REGISTER_KERNEL_BUILDER(
    Name("ImpalaBatcherClose").Device(tf::DEVICE_DEFAULT).HostMemory("batcher"),
    CloseOp);
REGISTER_KERNEL_BUILDER(Name("ImpalaBatcherStatistics")
                            .Device(tf::DEVICE_DEFAULT)
                            .HostMemory("batcher")
                            .HostMemory("statistics"),
                        StatisticsOp);

}  // namespace
}  // namespace impala
