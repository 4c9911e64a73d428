/*
 * What Powderhorn needs of varnishd's headers that are not installed: cache/cache_objhead.h and
 * cache/cache_ban.h. Checked against Varnish 7.5, 7.6, 7.7 and 8.0, in which these parts are the
 * same; a .so is bound to one exact build of varnishd anyway. Every use checks the magic number.
 *
 * Include cache/cache_varnishd.h first.
 */
#ifndef POWDERHORN_VARNISHD_PRIVATE_H
#define POWDERHORN_VARNISHD_PRIVATE_H

#if VRT_MAJOR_VERSION < 19U || VRT_MAJOR_VERSION > 22U
#error "Powderhorn knows Varnish 7.5 to 8.0"
#endif

/* Varnish 8.0 tells waiting requests which fetch they waited for, so its functions changed. */
#define PH_VARNISH_8 (VRT_MAJOR_VERSION >= 22U)

/* The beginning of struct objhead. The digest is its last member here. */
struct objhead {
	unsigned		magic;
#define OBJHEAD_MAGIC		0x1b96615d
	int			refcnt;
	struct lock		mtx;
	VTAILQ_HEAD(,objcore)	objcs;
	uint8_t			digest[DIGEST_LEN];
};

int HSH_Lookup(struct req *, struct objcore **, struct objcore **);
#if PH_VARNISH_8
void HSH_Withdraw(struct worker *, struct objcore **);
int HSH_DerefObjCore(struct worker *, struct objcore **);
#define ph_deref(wrk, ocp) HSH_DerefObjCore(wrk, ocp)
#else
int HSH_DerefObjCore(struct worker *, struct objcore **, int rushmax);
#define ph_deref(wrk, ocp) HSH_DerefObjCore(wrk, ocp, 0)
#endif

/*
 * What marks an object that lookups are to pass over. 8.0 gives an object to the requests that wait
 * for its fetch without a lookup, and only those with some other flags it does not (hsh_rush_match).
 * Of them OC_F_WITHDRAWN, "this brought nothing, look again", fits: nothing else reads it but
 * hsh_rush1, which then wakes one request, who fetches, and not several, who would wait for that.
 */
#if PH_VARNISH_8
#define PH_OC_F_GONE (OC_F_DYING | OC_F_WITHDRAWN)
#else
#define PH_OC_F_GONE OC_F_DYING
#endif

/* The beginning of struct ban. */
struct ban {
	unsigned		magic;
#define BAN_MAGIC		0x700b08ea
	unsigned		flags;
#define BANS_FLAG_COMPLETED	(1 << 2)
	VTAILQ_ENTRY(ban)	list;
	VTAILQ_ENTRY(ban)	l_list;
	int64_t			refcount;
	VTAILQ_HEAD(,objcore)	objcore;
};
VTAILQ_HEAD(banhead_s, ban);
extern struct lock ban_mtx;
extern struct banhead_s ban_head;
extern int ban_shutdown;

#endif
