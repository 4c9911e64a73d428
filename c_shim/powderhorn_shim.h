/*
 * What Powderhorn needs from the inside of varnishd, and nothing else.
 *
 * This header is read by bindgen: it includes nothing of Varnish, so that the Rust side sees a
 * handful of functions and opaque pointers whatever the version of Varnish. Differences between
 * versions live in powderhorn_shim.c.
 */
#ifndef POWDERHORN_SHIM_H
#define POWDERHORN_SHIM_H

#include <stddef.h>
#include <stdint.h>

struct worker;
struct vrt_ctx;

/* How loud a line in the log is. */
#define PH_LOG_ERROR 0
#define PH_LOG_NOTICE 1
#define PH_LOG_DEBUG 2

/* SHA-256, as vcl_hash makes it. */
#define PH_DIGEST_BYTES 32

/*
 * Runs `run` on a new varnishd background thread. The worker is valid until `run` returns.
 * Panics varnishd if no thread can be made, as varnishd's own background threads do.
 */
typedef void ph_worker_f(struct worker *worker, void *priv);
void ph_start_worker(const char *name, ph_worker_f *run, void *priv);

/*
 * Kills every variant of the object with this digest; returns how many there were.
 * Not counted and not killed: an object whose response headers have not arrived yet.
 *
 * `worker` is the calling thread's own. The caller holds no lock of varnishd.
 */
unsigned ph_purge_digest(struct worker *worker, const uint8_t digest[PH_DIGEST_BYTES]);

/* Adds a background worker's counters to varnishd's. Requests' workers do this themselves. */
void ph_flush_stats(struct worker *worker);

/* The worker of the request or the fetch that runs this VCL; NULL in vcl_init and vcl_fini. */
struct worker *ph_ctx_worker(const struct vrt_ctx *ctx);

/* Not so in vcl_fini and in COLD and DISCARD events: VRT_fail would assert there. */
int ph_ctx_may_fail(const struct vrt_ctx *ctx);

int ph_ctx_in_init(const struct vrt_ctx *ctx);

/* Makes VRT_fail in a WARM event refuse the VCL, with its message, where it would assert. */
void ph_ctx_let_warm_fail(struct vrt_ctx *ctx);

/*
 * Bytes of the transaction's workspace, valid until it ends; NULL if it has no room, which also
 * marks the workspace as overflown (varnishd then fails the transaction). `ph_ctx_room` says how
 * many bytes there are, and marks nothing.
 */
char *ph_ctx_alloc(const struct vrt_ctx *ctx, size_t len);
size_t ph_ctx_room(const struct vrt_ctx *ctx);

/* The Host header of the client's or else of the backend request; NULL if there is none. */
const char *ph_ctx_host(const struct vrt_ctx *ctx);

/*
 * The address that builtin.vcl hashes when a request has no Host: server.ip as text, on ctx's
 * workspace. NULL outside client VCL and when the workspace is full.
 */
const char *ph_ctx_server_ip(const struct vrt_ctx *ctx);

/*
 * The text that VCL makes of a BLOB of these bytes, on ctx's workspace; NULL if that is full.
 */
const char *ph_ctx_blob_text(const struct vrt_ctx *ctx, const void *bytes, size_t len);

/* True once the cache child has begun to shut down: nothing may touch objects from then on. */
int ph_closing(void);

/* Writes one record that belongs to no transaction (`varnishlog -g raw`). Any thread. */
void ph_log(int level, const char *text, size_t len);

/*
 * True if another library mapped into this process exports the int `symbol` at another address
 * than `own` and it is not zero: a second copy of this VMOD, which has statics of its own.
 */
int ph_other_copy_claimed(const char *symbol, const int *own);

#endif
