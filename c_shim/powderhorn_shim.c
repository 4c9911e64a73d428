/*
 * The only code of Powderhorn that touches varnishd's internals, for Varnish 7.5 to 8.0, is in
 * this directory: workers, VCL's context, the log and the process here, objects in objects.c, bans
 * and regular expressions in bans.c, what operators see in cli.c, director.c and counters.c.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cache_varnishd.h"

#include "vcl.h"
#include "vrt_obj.h"

#include "varnishd_private.h"
#include "powderhorn_shim.h"

struct start {
	unsigned	magic;
#define START_MAGIC	0x70680001
	ph_worker_f	*run;
	void		*priv;
};

static void * v_matchproto_(bgthread_t)
run_worker(struct worker *wrk, void *priv)
{
	struct start *start, s;

	CHECK_OBJ_NOTNULL(wrk, WORKER_MAGIC);
	CAST_OBJ_NOTNULL(start, priv, START_MAGIC);
	s = *start;
	FREE_OBJ(start);
	s.run(wrk, s.priv);
	return (NULL);
}

void
ph_start_worker(const char *name, ph_worker_f *run, void *priv)
{
	struct start *start;
	pthread_t thread;

	ALLOC_OBJ(start, START_MAGIC);
	AN(start);
	start->run = run;
	start->priv = priv;
	WRK_BgThread(&thread, name, run_worker, start);
	PTOK(pthread_detach(thread));
}

void
ph_flush_stats(struct worker *wrk)
{

	CHECK_OBJ_NOTNULL(wrk, WORKER_MAGIC);
	Pool_Sumstat(wrk);
}

struct worker *
ph_ctx_worker(const struct vrt_ctx *ctx)
{

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	if (ctx->req != NULL) {
		CHECK_OBJ(ctx->req, REQ_MAGIC);
		CHECK_OBJ_ORNULL(ctx->req->wrk, WORKER_MAGIC);
		return (ctx->req->wrk);
	}
	if (ctx->bo != NULL) {
		CHECK_OBJ(ctx->bo, BUSYOBJ_MAGIC);
		CHECK_OBJ_ORNULL(ctx->bo->wrk, WORKER_MAGIC);
		return (ctx->bo->wrk);
	}
	return (NULL);
}

/* VRT_fail asserts that the message has somewhere to go. */
int
ph_ctx_may_fail(const struct vrt_ctx *ctx)
{

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	return (ctx->vsl != NULL || ctx->msg != NULL);
}

int
ph_ctx_in_init(const struct vrt_ctx *ctx)
{

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	return (ctx->method == VCL_MET_INIT);
}

/*
 * A WARM event may fail, by its return value and with a message in ctx->msg, but not by VRT_fail,
 * and the bindings that call our event handler know no other way. vcl_event_handling() asserts
 * that handling was not set, except in vcl_init, whose failure it treats as is wanted here:
 * the VCL is refused. The context is varnishd's own for this one event.
 */
void
ph_ctx_let_warm_fail(struct vrt_ctx *ctx)
{

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	ASSERT_CLI();
	AN(ctx->msg);
	ctx->method = VCL_MET_INIT;
}

char *
ph_ctx_alloc(const struct vrt_ctx *ctx, size_t len)
{

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	if (len == 0 || len > UINT_MAX)
		return (NULL);
	return (WS_Alloc(ctx->ws, (unsigned)len));
}

const char *
ph_ctx_host(const struct vrt_ctx *ctx)
{
	const struct http *hp;
	const char *host;

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	hp = ctx->http_req != NULL ? ctx->http_req : ctx->http_bereq;
	if (hp == NULL || !http_GetHdr(hp, H_Host, &host))
		return (NULL);
	return (host);
}

const char *
ph_ctx_server_ip(const struct vrt_ctx *ctx)
{
	VCL_IP ip;

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	if (ctx->req == NULL)
		return (NULL);
	ip = VRT_r_server_ip(ctx);
	if (ip == NULL)
		return (NULL);
	return (VRT_IP_string(ctx, ip));
}

int
ph_ctx_digest(const struct vrt_ctx *ctx, uint8_t digest[PH_DIGEST_BYTES])
{

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	if (ctx->method & (VCL_MET_HIT | VCL_MET_MISS | VCL_MET_PASS | VCL_MET_PIPE | VCL_MET_PURGE |
	    VCL_MET_DELIVER | VCL_MET_SYNTH)) {
		CHECK_OBJ_NOTNULL(ctx->req, REQ_MAGIC);
		assert(sizeof ctx->req->digest == PH_DIGEST_BYTES);
		memcpy(digest, ctx->req->digest, PH_DIGEST_BYTES);
		return (1);
	}
	if (ctx->bo != NULL) {
		CHECK_OBJ(ctx->bo, BUSYOBJ_MAGIC);
		assert(sizeof ctx->bo->digest == PH_DIGEST_BYTES);
		memcpy(digest, ctx->bo->digest, PH_DIGEST_BYTES);
		return (1);
	}
	return (0);
}

const char *
ph_ctx_blob_text(const struct vrt_ctx *ctx, const void *bytes, size_t len)
{
	struct vrt_blob blob;

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	memset(&blob, 0, sizeof blob);
	blob.blob = bytes;
	blob.len = len;
	return (VRT_BLOB_string(ctx, &blob));
}

struct body {
	ph_body_f	*each;
	void		*priv;
};

static int v_matchproto_(objiterate_f)
body_part(void *priv, unsigned flush, const void *ptr, ssize_t len)
{
	const struct body *body = priv;

	(void)flush;
	if (len <= 0)
		return (0);
	return (body->each(body->priv, ptr, (size_t)len));
}

/* Only a cached body can be read in VCL and still be there for the backend. */
enum ph_body_result
ph_each_body_part(const struct vrt_ctx *ctx, ph_body_f *each, void *priv)
{
	struct body body;
	struct req *req;

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	AN(each);
	req = ctx->req;
	if (req == NULL)
		return (PH_BODY_NONE);
	CHECK_OBJ(req, REQ_MAGIC);
	if (req->req_body_status == BS_NONE)
		return (PH_BODY_NONE);
	if (req->req_body_status != BS_CACHED)
		return (PH_BODY_NOT_CACHED);
	body.each = each;
	body.priv = priv;
	if (VRB_Iterate(req->wrk, ctx->vsl, req, body_part, &body) < 0)
		return (PH_BODY_FAILED);
	return (PH_BODY_OK);
}

/*
 * child_main() stops the acceptors, then bans (this flag), then the expiry, then the storage.
 * varnishd itself sets and reads the flag without more ado.
 */
int
ph_closing(void)
{

	return (__atomic_load_n(&ban_shutdown, __ATOMIC_RELAXED) != 0);
}

void
ph_log(int level, const char *text, size_t len)
{
	enum VSL_tag_e tag;

	switch (level) {
	case PH_LOG_ERROR:	tag = SLT_Error; break;
	case PH_LOG_NOTICE:	tag = SLT_Notice; break;
	case PH_LOG_RECORD:	tag = SLT_VCL_Log; break;
	default:		tag = SLT_Debug; break;
	}
	VSL(tag, NO_VXID, "powderhorn: %.*s", (int)len, text);
}

/*
 * varnishd maps every VMOD with RTLD_LOCAL, so dlsym(RTLD_DEFAULT) sees none of them: ask each
 * mapped library by name. The names are gathered first, because the loader's lock is held during
 * the walk.
 */
struct names {
	char		**name;
	size_t		n;
	size_t		room;
};

static int
gather_name(struct dl_phdr_info *info, size_t size, void *priv)
{
	struct names *names = priv;
	char **grown;

	(void)size;
	if (info->dlpi_name == NULL || *info->dlpi_name == '\0')
		return (0);
	if (names->n == names->room) {
		names->room = names->room * 2 + 16;
		grown = realloc(names->name, names->room * sizeof *grown);
		AN(grown);
		names->name = grown;
	}
	names->name[names->n] = strdup(info->dlpi_name);
	AN(names->name[names->n]);
	names->n++;
	return (0);
}

void *
ph_other_copy(const char *symbol, const int *own, const char *wanted)
{
	struct names names;
	const int *other;
	void *handle, *found = NULL;
	size_t i;

	AN(symbol);
	AN(own);
	AN(wanted);
	memset(&names, 0, sizeof names);
	(void)dl_iterate_phdr(gather_name, &names);
	for (i = 0; i < names.n; i++) {
		handle = dlopen(names.name[i], RTLD_LAZY | RTLD_NOLOAD);
		if (handle != NULL) {
			other = dlsym(handle, symbol);
			if (other != NULL && other != own &&
			    __atomic_load_n(other, __ATOMIC_ACQUIRE) != 0)
				found = dlsym(handle, wanted);
			(void)dlclose(handle);
		}
		free(names.name[i]);
	}
	free(names.name);
	return (found);
}

const char *
ph_vmod_path(void)
{
	char *const *path;

	/* The manager's variable: the child is a fork of it. */
	path = dlsym(RTLD_DEFAULT, "mgt_vmod_path");
	return (path == NULL ? NULL : *path);
}
