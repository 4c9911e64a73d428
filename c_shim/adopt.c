/*
 * Finding the objects that were in the cache before the subscription, and whose they are.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <string.h>

#include "cache/cache_varnishd.h"

#include "varnishd_private.h"
#include "powderhorn_shim.h"

/*
 * Every object is in the list of one ban, from before HSH_Unbusy makes it one that lookups find
 * until after its last reference is gone, and only then does it let go of its objhead: so under
 * ban_mtx each objhead here is alive, and a digest never changes. No objhead's mutex is needed,
 * which would come before ban_mtx.
 *
 * This is done in one go, once in a process and only when the VMOD is loaded into a cache at work:
 * 10 ms for 100,000 objects. Fetches wait meanwhile, and so do hits on objects that have not been
 * tested against the newest ban. It cannot be done in slices: the lurker moves objects to the end
 * of a list, so none is a sound place to go on from, and a marker in the list would be an object
 * to the lurker.
 */
size_t
ph_list_digests(uint8_t *digests, size_t room)
{
	const struct objcore *oc;
	const struct ban *b;
	size_t n;

	AN(digests);
	n = 0;
	Lck_Lock(&ban_mtx);
	VTAILQ_FOREACH(b, &ban_head, list) {
		CHECK_OBJ_NOTNULL(b, BAN_MAGIC);
		VTAILQ_FOREACH(oc, &b->objcore, ban_list) {
			CHECK_OBJ_NOTNULL(oc, OBJCORE_MAGIC);
			/* The lurker's own two markers have none. */
			if (oc->objhead == NULL)
				continue;
			CHECK_OBJ(oc->objhead, OBJHEAD_MAGIC);
			if (n < room)
				memcpy(digests + n * PH_DIGEST_BYTES, oc->objhead->digest,
				    PH_DIGEST_BYTES);
			n++;
		}
	}
	Lck_Unlock(&ban_mtx);
	return (n);
}

/*
 * The expiry's thread clears OC_EF_REFD under the expiry's mutex before it sends EXPIRE. Read here
 * without that mutex: see adopt.rs for why that is enough.
 */
enum ph_expiry
ph_expiry(uint64_t object)
{
	const struct objcore *oc;
	uint8_t flags;

	oc = (const struct objcore *)(uintptr_t)object;
	CHECK_OBJ_NOTNULL(oc, OBJCORE_MAGIC);
	flags = __atomic_load_n(&oc->exp_flags, __ATOMIC_RELAXED);
	if ((flags & OC_EF_REFD) == 0)
		return (PH_EXPIRY_OVER);
	return (flags & OC_EF_NEW ? PH_EXPIRY_INSERTING : PH_EXPIRY_OWNS);
}
