/*
 * What Powderhorn needs from the inside of varnishd, and nothing else.
 *
 * This header is read by bindgen: it includes nothing of Varnish, so that the Rust side sees a
 * handful of functions and opaque pointers whatever the version of Varnish. Differences between
 * versions live in the C files beside it.
 */
#ifndef POWDERHORN_SHIM_H
#define POWDERHORN_SHIM_H

#include <stddef.h>
#include <stdint.h>

struct worker;
struct vrt_ctx;
struct director;

/* How loud a line in the log is. */
#define PH_LOG_ERROR 0
#define PH_LOG_NOTICE 1
#define PH_LOG_DEBUG 2
/* What happens all the time: VCL_Log. */
#define PH_LOG_RECORD 3

/* SHA-256, as vcl_hash makes it. */
#define PH_DIGEST_BYTES 32

/*
 * Runs `run` on a new varnishd background thread. The worker is valid until `run` returns.
 * Panics varnishd if no thread can be made, as varnishd's own background threads do.
 */
typedef void ph_worker_f(struct worker *worker, void *priv);
void ph_start_worker(const char *name, ph_worker_f *run, void *priv);

/*
 * Where varnishd looks for VMODs, its parameter vmod_path, as it was when this process was forked; NULL if
 * this varnishd does not say.
 */
const char *ph_vmod_path(void);

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
 * marks the workspace as overflown (varnishd then fails the transaction).
 */
char *ph_ctx_alloc(const struct vrt_ctx *ctx, size_t len);

/* Most bytes that a task is kept: a status of some thousand nodes. */
#define PH_KEPT_BYTES_MAX 4194304

/*
 * Zeroed bytes beside the workspace, valid until the task (the request, the fetch, the command) ends;
 * NULL if that would be more than PH_KEPT_BYTES_MAX for it.
 */
char *ph_ctx_keep(const struct vrt_ctx *ctx, size_t len);

/* The Host header of the client's or else of the backend request; NULL if there is none. */
const char *ph_ctx_host(const struct vrt_ctx *ctx);

/*
 * The address that builtin.vcl hashes when a request has no Host: server.ip as text, on ctx's
 * workspace. NULL outside client VCL and when the workspace is full.
 */
const char *ph_ctx_server_ip(const struct vrt_ctx *ctx);

/*
 * What vcl_hash made of this request, or in backend VCL of the one that it fetches for. Returns 0
 * before vcl_hash and where there is no request.
 */
int ph_ctx_digest(const struct vrt_ctx *ctx, uint8_t digest[PH_DIGEST_BYTES]);

/*
 * The text that VCL makes of a BLOB of these bytes, on ctx's workspace; NULL if that is full.
 */
const char *ph_ctx_blob_text(const struct vrt_ctx *ctx, const void *bytes, size_t len);

/*
 * An object is named by its address, which is opaque here and is valid from INSERT
 * to EXPIRE: whoever keeps EXPIRE's callback from returning keeps the object alive.
 */

/* What INSERT tells of an object. Valid during the callback only. */
struct ph_inserted {
	uint64_t	object;
	/* 32 bytes. */
	const uint8_t	*digest;
	/* When the fetch began, by the wall clock; NAN if no fetch made the object. */
	double		t_first;
	/* The fetch, as ph_ctx_fetch names it; 0 if there is none. */
	uint64_t	fetch;
	uint64_t	attempt;
	/* The object whose body a 304 of the origin revives; 0 if none. It may have expired. */
	uint64_t	revives;
	/* That object has been killed by now. */
	int		revives_dying;
	/* Hit-for-miss or hit-for-pass: nobody is given what is in it. */
	int		empty;
	/* ph_purge_digest found the fetch under way. The object is on its way out already. */
	int		dying;
};

typedef void ph_insert_f(struct worker *worker, const struct ph_inserted *inserted);
typedef void ph_expire_f(uint64_t object);

/*
 * From now on `on_insert` is called once for every object that enters the cache, before any lookup
 * that begins later can hit it for the first time or not long after, and `on_expire` once before
 * it is freed. Objects that are in the cache already send EXPIRE only. Call it once in a process;
 * there is no way back. Not while a lock is held that one of the callbacks takes.
 *
 * Both are called with varnishd's events lock held for reading and no other lock of varnishd.
 */
void ph_subscribe(ph_insert_f *on_insert, ph_expire_f *on_expire);

/* One header: "Name: value", without a zero byte in its `len` bytes. */
typedef void ph_header_f(void *priv, const char *line, size_t len);

/* The headers of an object, in its INSERT callback. */
void ph_each_header(struct worker *worker, uint64_t object, ph_header_f *each, void *priv);

/* The headers of the backend's response: in vcl_backend_response; none elsewhere. */
void ph_each_beresp_header(const struct vrt_ctx *ctx, ph_header_f *each, void *priv);

struct ph_fetch {
	/* The fetch's struct, which is used again for other fetches later. */
	uint64_t	fetch;
	/* Its transaction: a retry is another, and no two fetches have the same. */
	uint64_t	attempt;
	/* When the first attempt began, by the wall clock. */
	double		t_first;
	uint8_t		digest[PH_DIGEST_BYTES];
	/* A pass: the object goes to one client, has no digest and never sends INSERT. */
	int		private_object;
	/* In vcl_backend_response: the origin answered 304. */
	int		revives;
	/* And the object that this revives was killed. */
	int		revives_dying;
	/* It is vcl_backend_fetch that asks. */
	int		begins;
	/* return (retry) would fetch again, and not fail. */
	int		may_retry;
	/* URL and Host of the request as the lookup had them, whatever backend VCL made of them. */
	const char	*url;
	const char	*host;
};

/*
 * The fetch that runs this backend VCL. Returns 0 if there is none.
 *
 * Called in vcl_backend_fetch, it also lets the object live that a purge has marked while an
 * earlier attempt was under way: the one that begins now is as good as any that begins later.
 */
int ph_ctx_fetch(const struct vrt_ctx *ctx, struct ph_fetch *out);

/* No lookup hits the object from the return on. Any thread. */
void ph_kill(uint64_t object);

/*
 * The object's TTL ends now; its grace and keep stay. Any thread. Returns whether it was fresh:
 * what is stale already stays as it is.
 */
int ph_soften(uint64_t object);

enum ph_mode {
	PH_HARD,
	PH_SOFT
};

/* Whether a late purge leaves this object alone. Called with no lock of varnishd held. */
typedef int ph_spare_f(void *priv, uint64_t object);

/*
 * Kills or softens every variant of the object with this digest; returns how many there were.
 *
 * Without `spare`: all that are in the cache, and with PH_HARD also marks the fetches under way,
 * so that no later request joins them; their INSERT says `dying`. With `spare`: those that it
 * answers 0 for; fetches under way are left to INSERT.
 *
 * `worker` is the calling thread's own. The caller holds no lock of varnishd.
 */
unsigned ph_purge_digest(struct worker *worker, const uint8_t digest[PH_DIGEST_BYTES],
    enum ph_mode mode, ph_spare_f *spare, void *priv);

/*
 * How many objects are in the cache, hit-for-miss ones included. Exact, but it walks the list of
 * bans under its lock. Right after ph_subscribe it says whether there are objects that INSERT
 * never told of.
 */
uint64_t ph_objects_now(void);

enum ph_body_result {
	PH_BODY_OK,
	/* The request has none, or it was not sent by a client. */
	PH_BODY_NONE,
	/* VCL has not called std.cache_req_body(), or that failed. */
	PH_BODY_NOT_CACHED,
	/* It could not be read, or `each` returned other than 0. */
	PH_BODY_FAILED
};

/* One part of the body. Returns 0 to go on. */
typedef int ph_body_f(void *priv, const char *bytes, size_t len);

/* The parts of the cached body, in order. Client VCL only. */
enum ph_body_result ph_each_body_part(const struct vrt_ctx *ctx, ph_body_f *each, void *priv);

/* varnishd asserts no more. */
#define PH_BAN_HEADER_BYTES_MAX 126

/* One test; a ban hits what all of its tests hit. */
struct ph_ban_test {
	/* "obj.http.x-url", "obj.status", ... */
	const char	*field;
	/* "~", "!~", "==", "!=" */
	const char	*operator_;
	const char	*value;
};

enum ph_ban_result {
	PH_BAN_OK,
	/* `error` says why. */
	PH_BAN_INVALID,
	/* The cache child shuts down. */
	PH_BAN_CLOSING
};

/* Adds a ban. Any thread. A regex must have passed ph_regex_screen. */
enum ph_ban_result ph_ban(const struct ph_ban_test *tests, size_t n, char *error,
    size_t error_len);

/*
 * How many bans are not completed, whoever made them; counts up to `at_most`. Walks the list
 * under its lock, as adding a ban does.
 */
uint64_t ph_bans_live(uint64_t at_most);

/* Steps, after which a match is given up: some milliseconds. */
#define PH_REGEX_MATCH_LIMIT 100000

struct ph_regex;

/* NULL if it is not valid; `error` then says why. */
struct ph_regex *ph_regex_compile(const char *pattern, char *error, size_t error_len);

/* 1 if it matches, 0 if not, -1 if it was given up. Any number of threads at a time. */
int ph_regex_match(const struct ph_regex *regex, const char *subject, size_t len);

void ph_regex_free(struct ph_regex *regex);

/*
 * Whether a ban may have this regex. varnishd panics, and so empties the cache, when a ban's match
 * is given up by PCRE2, and a ban goes to the whole fleet. So this tries the regex on long
 * subjects, and refuses (-1, `error` says why) what takes many steps there or is not valid. It
 * takes about a millisecond, and half a second at most. It finds what is likely, not all that is possible.
 */
int ph_regex_screen(const char *pattern, char *error, size_t error_len);

/* True once the cache child has begun to shut down: nothing may touch objects from then on. */
int ph_closing(void);

/* Writes one record that belongs to no transaction (`varnishlog -g raw`). Any thread. */
void ph_log(int level, const char *text, size_t len);

/*
 * Another library mapped into this process that exports the int `symbol` at another address than `own`,
 * and it is not zero: a second copy of this VMOD, which has statics of its own. Returns the address of
 * what that copy exports as `wanted`; NULL if there is no such copy or it has no such thing.
 */
void *ph_other_copy(const char *symbol, const int *own, const char *wanted);

/* Takes text for whoever asked; `priv` is what came with it. */
typedef void ph_reply_f(void *priv, const char *text, size_t len);
void ph_reply(void *priv, const char *text, size_t len);

/* The commands of varnishadm, where varnishd is started with -E. */
enum ph_command {
	PH_COMMAND_STATUS,
	PH_COMMAND_PEERS,
	PH_COMMAND_DIGEST,
	PH_COMMAND_STREAMS,
	PH_COMMAND_TRACE,
	PH_COMMAND_PURGE,
	PH_COMMAND_FLUSH,
	PH_COMMANDS
};

/*
 * Answers a command: replies once, and returns the status for the command line. JSON that would have
 * more than `room` bytes is not given. In the Rust half; another copy of the library may be who calls, so a
 * change of the arguments takes another number.
 */
unsigned powderhorn_command_1(unsigned command, int json, const char * const *args, size_t n,
    size_t room, ph_reply_f *reply, void *priv);

/*
 * `details`: as `backend.list -p` asks. As JSON, at most `room` bytes are left in the answer, and other
 * backends are still to come.
 */
typedef void ph_list_f(int details, int json, size_t room, ph_reply_f *reply, void *priv);

/* Whether the fleet is well, and since when it is or is not, in seconds since 1970. */
typedef int ph_healthy_f(double *changed);

/* Gives the VCL that is being loaded its director. CLI thread. NULL if the VCL is on its way out. */
const struct director *ph_add_director(const struct vrt_ctx *ctx, ph_list_f *list,
    ph_healthy_f *healthy);
/* Before the VCL goes. CLI thread. */
void ph_delete_director(const struct director *dir);

/*
 * Room for `n` figures that varnishstat shows as `name`.*, for the life of the process. `doc` describes
 * them, in JSON that ends with a zero byte, which `doc_len` counts. Both stay for as long. CLI thread.
 */
uint64_t *ph_counters(const char *name, size_t n, const char *doc, size_t doc_len);

/*
 * The digests of all objects in the cache, PH_DIGEST_BYTES each; some of them more than once, as
 * variants have the same. Returns how many objects there are; what does not fit is left out. Holds
 * the lock of the list of bans for about 0.1 us for each object.
 */
size_t ph_list_digests(uint8_t *digests, size_t room);

enum ph_expiry {
	/* EXPIRE is still to come. */
	PH_EXPIRY_OWNS,
	/* INSERT is being sent, or was a moment ago. */
	PH_EXPIRY_INSERTING,
	/* EXPIRE is being sent, or has been. */
	PH_EXPIRY_OVER
};

/* The caller holds a reference on the object. */
enum ph_expiry ph_expiry(uint64_t object);

#endif
