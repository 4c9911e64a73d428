/*
 * Objects in the cache: learning of them, reading their headers, killing and softening them.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cache_varnishd.h"

#include "vcl.h"
#include "vtim.h"

#include "varnishd_private.h"
#include "powderhorn_shim.h"

/*
 * How many objects are looked at before the objhead's mutex is given up for a moment, so that
 * requests for other variants need not wait for the whole of a long list.
 */
#define OBJECTS_PER_LOCK_MAX 256

/* Set once, before the subscription, and read under varnishd's events lock from then on. */
static ph_insert_f *insert_func;
static ph_expire_f *expire_func;
/* Set once the subscription is made. Atomic: purges read it on other threads. */
static int subscribed;

static struct objcore *
object(uint64_t oc)
{
	struct objcore *p;

	p = (struct objcore *)(uintptr_t)oc;
	CHECK_OBJ_NOTNULL(p, OBJCORE_MAGIC);
	return (p);
}

static int
is_dying(const struct objcore *oc)
{

	return ((__atomic_load_n(&oc->flags, __ATOMIC_RELAXED) & OC_F_DYING) != 0);
}

/* The object whose body a 304 lets live on in the one that is being fetched. */
static const struct objcore *
revived(const struct busyobj *bo)
{

	CHECK_OBJ_ORNULL(bo->stale_oc, OBJCORE_MAGIC);
	return (bo->was_304 ? bo->stale_oc : NULL);
}

/*
 * varnishd runs this with its events lock held for reading, in EXP_Insert on the fetch's own
 * worker, and for EXPIRE on the expiry thread or, if a kill raced with the insertion, on the
 * fetch's worker right after INSERT. The object has the sender's reference in both.
 */
static void v_matchproto_(obj_event_f)
object_event(struct worker *wrk, void *priv, struct objcore *oc, unsigned event)
{
	struct ph_inserted in;
	const struct busyobj *bo;
	const struct objcore *stale;

	(void)priv;
	CHECK_OBJ_NOTNULL(wrk, WORKER_MAGIC);
	CHECK_OBJ_NOTNULL(oc, OBJCORE_MAGIC);

	if (event == OEV_EXPIRE) {
		expire_func((uintptr_t)oc);
		return;
	}
	if (event != OEV_INSERT)
		return;

	CHECK_OBJ_NOTNULL(oc->objhead, OBJHEAD_MAGIC);
	memset(&in, 0, sizeof in);
	in.object = (uintptr_t)oc;
	in.digest = oc->objhead->digest;
	in.t_first = NAN;
	in.dying = is_dying(oc);

	/* None if a persistent storage brings the object back. */
	bo = THR_GetBusyobj();
	CHECK_OBJ_ORNULL(bo, BUSYOBJ_MAGIC);
	if (bo != NULL && bo->fetch_objcore == oc) {
		in.t_first = bo->t_first;
		in.fetch = (uintptr_t)bo;
		in.attempt = bo->vsl->wid.vxid;
		stale = revived(bo);
		in.revives = (uintptr_t)stale;
		in.revives_dying = stale != NULL && is_dying(stale);
	}
	in.empty = (oc->flags & OC_F_HFM) != 0;

	/*
	 * A purge that found it busy could not remove it, and nobody else does: the LRU and
	 * varnishd's own purges skip what is marked already.
	 */
	if (in.dying)
		EXP_Remove(oc, NULL);
	insert_func(wrk, &in);
}

void
ph_subscribe(ph_insert_f *on_insert, ph_expire_f *on_expire)
{

	AN(on_insert);
	AN(on_expire);
	AZ(insert_func);
	insert_func = on_insert;
	expire_func = on_expire;
	(void)ObjSubscribeEvents(object_event, NULL, OEV_INSERT | OEV_EXPIRE);
	__atomic_store_n(&subscribed, 1, __ATOMIC_RELEASE);
}

void
ph_each_header(struct worker *wrk, uint64_t oc, ph_header_f *each, void *priv)
{
	const char *line;

	CHECK_OBJ_NOTNULL(wrk, WORKER_MAGIC);
	HTTP_FOREACH_PACK(wrk, object(oc), line)
		each(priv, line, strlen(line));
}

void
ph_each_beresp_header(const struct vrt_ctx *ctx, ph_header_f *each, void *priv)
{
	const struct http *hp;
	unsigned u;

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	hp = ctx->http_beresp;
	if (hp == NULL)
		return;
	CHECK_OBJ(hp, HTTP_MAGIC);
	for (u = HTTP_HDR_FIRST; u < hp->nhd; u++)
		if (hp->hd[u].b != NULL)
			each(priv, hp->hd[u].b, Tlen(hp->hd[u]));
}

/*
 * Takes back what mark() did, on the fetch's own thread as it begins to fetch once more. What
 * purges the coming attempt escapes, and which it does not, is for the fence at INSERT to say.
 */
static void
unmark(struct objcore *oc)
{

	if ((__atomic_load_n(&oc->flags, __ATOMIC_RELAXED) & OC_F_DYING) == 0)
		return;
	Lck_Lock(&oc->objhead->mtx);
	if (oc->flags & OC_F_BUSY)
		(void)__atomic_fetch_and(&oc->flags, (uint8_t)~PH_OC_F_GONE, __ATOMIC_RELAXED);
	Lck_Unlock(&oc->objhead->mtx);
}

int
ph_ctx_fetch(const struct vrt_ctx *ctx, struct ph_fetch *out)
{
	const struct busyobj *bo;
	const struct objcore *stale;
	struct objcore *oc;
	unsigned max_retries;

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	AN(out);
	memset(out, 0, sizeof *out);
	bo = ctx->bo;
	if (bo == NULL)
		return (0);
	CHECK_OBJ(bo, BUSYOBJ_MAGIC);
	oc = bo->fetch_objcore;
	CHECK_OBJ_ORNULL(oc, OBJCORE_MAGIC);
	if (oc == NULL)
		return (0);
	CHECK_OBJ_NOTNULL(oc->objhead, OBJHEAD_MAGIC);
	if (ctx->method == VCL_MET_BACKEND_FETCH)
		unmark(oc);
	out->fetch = (uintptr_t)bo;
	out->attempt = bo->vsl->wid.vxid;
	out->t_first = bo->t_first;
	out->private_object = (oc->flags & OC_F_PRIVATE) != 0;
	memcpy(out->digest, oc->objhead->digest, sizeof out->digest);
	stale = revived(bo);
	out->revives = stale != NULL;
	out->revives_dying = stale != NULL && is_dying(stale);
	out->begins = ctx->method == VCL_MET_BACKEND_FETCH;
#if VRT_MAJOR_VERSION >= 21U
	max_retries = bo->max_retries;
#else
	max_retries = cache_param->max_retries;
#endif
	out->may_retry = bo->retries < max_retries && bo->no_retry == NULL;
	/* What VCL changes is a copy of this. */
	if (bo->bereq0 != NULL) {
		CHECK_OBJ(bo->bereq0, HTTP_MAGIC);
		out->url = bo->bereq0->hd[HTTP_HDR_URL].b;
		(void)http_GetHdr(bo->bereq0, H_Host, &out->host);
	}
	return (1);
}

/* HSH_Kill, and out of sight of those who wait for the object. */
static void
kill_object(struct objcore *oc)
{

	CHECK_OBJ_NOTNULL(oc->objhead, OBJHEAD_MAGIC);
	Lck_Lock(&oc->objhead->mtx);
	oc->flags |= PH_OC_F_GONE;
	Lck_Unlock(&oc->objhead->mtx);
	EXP_Remove(oc, NULL);
}

void
ph_kill(uint64_t oc)
{

	kill_object(object(oc));
}

/*
 * A lookup hits while t_origin + ttl > now, with ttl a float: the age is rounded by up to half
 * of its last bit, 1/2^24 of it, and may be large (an Age header moves t_origin back). So the new
 * TTL stays 1/2^22 of the age below it, and 1 ms at least for the clock's own steps.
 *
 * It stays above zero, because lookups pass over an object without any TTL even in its grace; by
 * 1 us, for EXP_Rearm adds it to t_origin, whose last bit is 0.24 us, and takes that away again.
 * But if the wall clock was set back behind t_origin, only no TTL at all makes it stale.
 *
 * Returns whether the object was fresh.
 */
static int
soften(struct objcore *oc, vtim_real now)
{
	vtim_dur age, ttl;

	age = now - oc->t_origin;
	if ((vtim_dur)oc->ttl <= age)
		return (0);
	ttl = age - fmax(1e-3, age / (1 << 22));
	if (age >= 0.)
		ttl = fmax(ttl, 1e-6);
	/* For an object that lives for less than that. */
	if (ttl < (vtim_dur)oc->ttl)
		EXP_Rearm(oc, oc->t_origin, ttl, NAN, NAN);
	return (1);
}

int
ph_soften(uint64_t oc)
{

	return (soften(object(oc), VTIM_real()));
}

/*
 * An always-miss lookup, as varnishd does for `return (purge)`: it finds or makes the objhead and
 * holds a reference on it by a busy objcore at the end of its list.
 *
 * HSH_Lookup reads of its struct req only the worker, the digest, hash_always_miss, and the magic
 * numbers of the req and its http; all else may be zero when hash_always_miss is set. It takes
 * what it inserts from the worker's private preallocation and makes another when that is gone,
 * so this is sound on a request's or a fetch's own worker, too. varnishd runs VCL with no lock
 * held.
 */
static struct objcore *
open_objhead(struct worker *wrk, const uint8_t digest[PH_DIGEST_BYTES])
{
	struct req req;
	struct http http;
	struct objcore *oc, *busy;

	CHECK_OBJ_NOTNULL(wrk, WORKER_MAGIC);
	assert(sizeof req.digest == PH_DIGEST_BYTES);
	INIT_OBJ(&http, HTTP_MAGIC);
	INIT_OBJ(&req, REQ_MAGIC);
	req.wrk = wrk;
	req.http = &http;
	req.hash_always_miss = 1;
	memcpy(req.digest, digest, sizeof req.digest);

	(void)HSH_Lookup(&req, &oc, &busy);
	AZ(oc);
	CHECK_OBJ_NOTNULL(busy, OBJCORE_MAGIC);
	CHECK_OBJ_NOTNULL(busy->objhead, OBJHEAD_MAGIC);
	return (busy);
}

static void
close_objhead(struct worker *wrk, struct objcore *busy)
{

#if PH_VARNISH_8
	HSH_Withdraw(wrk, &busy);
#else
	/* The last reference, for nobody else can have one on a busy objcore. */
	AZ(HSH_DerefObjCore(wrk, &busy, 1));
#endif
}

/*
 * Marks a fetch that is under way as dying, so that no later request joins it or hits what it
 * makes. The fetch goes on: who started it gets the response, who waits for it looks again, and at
 * INSERT object_event() removes the object.
 *
 * varnishd itself leaves busy objcores alone because their owner may destroy them; a bit under
 * the objhead's mutex, which every way out of the objhead's list takes, does not mind. Who reads
 * OC_F_DYING in 7.5 to 8.0: HSH_Lookup (passes over it, before it asks for BUSY), HSH_Purge and
 * HSH_Snipe (leave it alone), exp_expire (does not kill twice), the ban lurker (asks for BUSY
 * first; later takes the object off its list), and 8.0's obj_stale.is_valid (another objcore). No
 * assertion mentions it: HSH_Unbusy, HSH_Fail, HSH_Cancel, HSH_Withdraw and the rush look at BUSY,
 * PRIVATE, FAILED, WITHDRAWN and the reference counts. A fetch that ends without INSERT (failed,
 * withdrawn) is destroyed by its owner, whatever this bit says.
 *
 * Atomic, because the fetch's thread sets OC_F_HFM and OC_F_HFP without the mutex: an ordinary
 * `|=` here could undo that. Theirs can undo ours, which costs nothing but this head start: the
 * fence at INSERT knows of the purge as well.
 */
static void
mark(struct objcore *oc)
{

	(void)__atomic_fetch_or(&oc->flags, PH_OC_F_GONE, __ATOMIC_RELAXED);
}

/*
 * A request that has missed holds a busy objcore for a while before its fetch begins. Such a fetch
 * gets the new content, so it is left alone: a VCL that purges in vcl_miss keeps its object. The
 * boc goes away under the objhead's mutex only; that its state is read without its own mutex makes
 * a fetch that begins this very moment miss its mark.
 */
static int
has_begun(const struct objcore *oc)
{

	CHECK_OBJ_ORNULL(oc->boc, BOC_MAGIC);
	return (oc->boc != NULL &&
	    __atomic_load_n(&oc->boc->state, __ATOMIC_RELAXED) != BOS_INVALID);
}

/*
 * All objects here, in one pass. When it has held the mutex for long enough, our own busy objcore
 * moves behind the last object that was looked at, and so keeps the place while others may change
 * the list. Only HSH_Unbusy moves an objcore, from busy to the head of the list: a fetch that was
 * under way when the purge came, and so INSERT's to judge.
 *
 * EXP_Remove under the objhead's mutex is what HSH_Lookup does with an object that a ban hit; the
 * expiry's mutex is taken inside an objhead's and never the other way round. No reference is
 * needed meanwhile, for dropping the last one takes the objhead's mutex.
 */
static unsigned
walk(struct objcore *busy, enum ph_mode mode)
{
	struct objhead *oh;
	struct objcore *oc;
	vtim_real now;
	unsigned n, total;
	int marking;

	oh = busy->objhead;
	now = VTIM_real();
	total = 0;
	marking = mode == PH_HARD && __atomic_load_n(&subscribed, __ATOMIC_ACQUIRE);

	Lck_Lock(&oh->mtx);
	/* So that no request waits for what is only our foot in the door. */
	mark(busy);
	oc = VTAILQ_FIRST(&oh->objcs);
	for (n = 0; oc != NULL; oc = VTAILQ_NEXT(oc, hsh_list)) {
		CHECK_OBJ_NOTNULL(oc, OBJCORE_MAGIC);
		if (oc->flags & OC_F_BUSY) {
			if (marking && has_begun(oc))
				mark(oc);
		} else if (oc->flags & OC_F_DYING) {
			/* Somebody else's kill. */
		} else if (mode == PH_HARD) {
			oc->flags |= PH_OC_F_GONE;
			EXP_Remove(oc, NULL);
			total++;
		} else {
			total += soften(oc, now);
		}
		if (++n == OBJECTS_PER_LOCK_MAX) {
			n = 0;
			if (oc != busy) {
				VTAILQ_REMOVE(&oh->objcs, busy, hsh_list);
				VTAILQ_INSERT_AFTER(&oh->objcs, oc, busy, hsh_list);
				oc = busy;
			}
			Lck_Unlock(&oh->mtx);
			Lck_Lock(&oh->mtx);
		}
	}
	Lck_Unlock(&oh->mtx);
	return (total);
}

/*
 * The same for a late purge, which spares some. `spare` takes locks of Powderhorn's own, which
 * come before an objhead's mutex; so the objects are gathered first, each with a reference.
 */
static unsigned
walk_sparing(struct worker *wrk, struct objcore *busy, enum ph_mode mode, ph_spare_f *spare,
    void *priv)
{
	struct objhead *oh;
	struct objcore *oc, **list;
	vtim_real now;
	unsigned u, n, room, total;

	oh = busy->objhead;
	room = 16;
	do {
		list = malloc(room * sizeof *list);
		AN(list);
		n = 0;
		Lck_Lock(&oh->mtx);
		VTAILQ_FOREACH(oc, &oh->objcs, hsh_list) {
			CHECK_OBJ_NOTNULL(oc, OBJCORE_MAGIC);
			if (oc->flags & (OC_F_BUSY | OC_F_DYING))
				continue;
			if (n < room) {
				oc->refcnt++;
				list[n] = oc;
			}
			n++;
		}
		if (n > room)
			for (u = 0; u < room; u++)
				/* Not the last one: the mutex was held all along. */
				list[u]->refcnt--;
		Lck_Unlock(&oh->mtx);
		if (n <= room)
			break;
		free(list);
		/* More may have come by the next try. */
		room = n + n / 4;
	} while (1);

	now = VTIM_real();
	total = 0;
	for (u = 0; u < n; u++) {
		oc = list[u];
		if (!spare(priv, (uintptr_t)oc)) {
			if (mode == PH_HARD) {
				kill_object(oc);
				total++;
			} else {
				total += soften(oc, now);
			}
		}
		(void)ph_deref(wrk, &oc);
	}
	free(list);
	return (total);
}

unsigned
ph_purge_digest(struct worker *wrk, const uint8_t digest[PH_DIGEST_BYTES], enum ph_mode mode,
    ph_spare_f *spare, void *priv)
{
	struct objcore *busy;
	unsigned total;

	busy = open_objhead(wrk, digest);
	if (spare == NULL)
		total = walk(busy, mode);
	else
		total = walk_sparing(wrk, busy, mode, spare, priv);
	close_objhead(wrk, busy);
	if (mode == PH_HARD)
		Pool_PurgeStat(total);
	return (total);
}

/*
 * varnishd's counter n_object is a sum that each worker adds to now and then. A ban knows better:
 * every object holds a reference on one from HSH_Unbusy on.
 */
uint64_t
ph_objects_now(void)
{
	const struct ban *b;
	int64_t total;

	total = 0;
	Lck_Lock(&ban_mtx);
	VTAILQ_FOREACH(b, &ban_head, list) {
		CHECK_OBJ_NOTNULL(b, BAN_MAGIC);
		total += b->refcount;
	}
	Lck_Unlock(&ban_mtx);
	return (total > 0 ? (uint64_t)total : 0);
}
