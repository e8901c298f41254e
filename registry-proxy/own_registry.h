// The proxy as a registry of its own: what was pushed to it is stored here and served from here (OCI distribution 1.1,
// push, content discovery and content management).
//
// Its repositories are those that a request names without a registry (no `ns=`, no host before the name). Names of
// files and answers to blobs go by sendfile from the content store; all that touches the disk runs on workers.
#pragma once

#include <memory>
#include <string>

#include "mirror/route.h"
#include "mirror/workers.h"
#include "net/http_server.h"
#include "registry-proxy/content_store.h"
#include "registry-proxy/uploads.h"

namespace banyan::registry_proxy {

struct OwnRegistryOptions {
  bool push = false;
  bool remove = false;  // DELETE of manifests, tags and blobs
  // "user:password"; not empty: writes need one of these by basic authentication.
  std::vector<std::string> logins;
};

// Internally synchronised.
class OwnRegistry {
 public:
  OwnRegistry(OwnRegistryOptions options, ContentStore& store, mirror::Workers& workers)
      : options_(std::move(options)), store_(store), workers_(workers), uploads_(store, workers) {}

  // "own/<name>".
  static std::string StoreName(const std::string& name) { return "own/" + name; }

  // Whether a read of this repository is to be answered here.
  bool Has(const std::string& name) const { return store_.HasRepository(StoreName(name)); }
  // Whether the request writes, so that it can only be meant for this registry.
  static bool IsWrite(const net::HttpRequest& request, const mirror::Route& route);

  // On a server thread: takes the body of an upload (net::HttpBodyOpener).
  std::shared_ptr<net::HttpBody> OpenBody(const net::HttpRequest& head, const mirror::Route& route);
  // On a server thread; answers later.
  void Handle(net::HttpRequest request, mirror::Route route, std::shared_ptr<net::HttpReply> reply);

  size_t uploads() const { return uploads_.size(); }

 private:
  net::HttpResponse Answer(const net::HttpRequest& request, const mirror::Route& route);
  net::HttpResponse AnswerUpload(const net::HttpRequest& request, const mirror::Route& route);
  net::HttpResponse BeginUpload(const net::HttpRequest& request, const mirror::Route& route);
  net::HttpResponse EndUpload(const net::HttpRequest& request, const mirror::Route& route);
  net::HttpResponse Commit(const std::shared_ptr<Upload>& upload, const std::string& name, const std::string& digest);
  Result<std::shared_ptr<Upload>> UploadOf(const net::HttpRequest& request, const mirror::Route& route);
  net::HttpResponse AnswerManifest(const net::HttpRequest& request, const mirror::Route& route);
  net::HttpResponse PutManifest(const net::HttpRequest& request, const mirror::Route& route);
  net::HttpResponse Delete(const mirror::Route& route);
  Status CheckLinks(const std::string& repository, const ManifestLinks& links) const;
  std::optional<net::HttpResponse> Refusal(const net::HttpRequest& request, const mirror::Route& route) const;
  bool LoggedIn(const net::HttpRequest& request) const;

  const OwnRegistryOptions options_;
  ContentStore& store_;
  mirror::Workers& workers_;
  Uploads uploads_;
};

// Shared with the artifacts' side: answers from the content store.
net::HttpResponse AnswerBlob(const ContentStore& store, const net::HttpRequest& request, const Digest& digest);
net::HttpResponse AnswerReferrers(const std::vector<std::string>& descriptors, const mirror::Route& route);

}  // namespace banyan::registry_proxy
