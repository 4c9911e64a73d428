/*
 * What Powderhorn needs of varnishd's headers that are not installed: cache/cache_objhead.h,
 * cache/cache_ban.h, common/heritage.h, vcli_serve.h and what is private to vcli_serve.c. Checked against Varnish 7.5, 7.6, 7.7 and 8.0, in which these parts are the
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

/* The beginning of a list of commands. */
struct VCLS {
	unsigned		magic;
#define VCLS_MAGIC		0x60f044a3
};

/* The manager's commands. */
extern struct VCLS *mgt_cls;

/* The beginning of a command's session. */
struct cli {
	unsigned		magic;
#define CLI_MAGIC		0x4038d570
	void			*priv;
	struct vsb		*sb;
};

typedef void cli_func_t(struct cli *, const char * const *av, void *priv);

struct cli_cmd_desc {
	const char		*request;
	const char		*syntax;
	const char		*help;
	const char		*doc;
	int			minarg;
	int			maxarg;
};

struct cli_proto {
	const struct cli_cmd_desc *desc;
	const char		*flags;
	cli_func_t		*func;
	cli_func_t		*jsonfunc;
	void			*priv;
	unsigned		auth;
	VTAILQ_ENTRY(cli_proto)	list;
};

void VCLI_JSON_begin(struct cli *, unsigned version, const char * const *av);
void VCLI_JSON_end(struct cli *);
void VCLI_SetResult(struct cli *, unsigned result);
void VCLS_AddFunc(struct VCLS *, unsigned auth, struct cli_proto *);

struct listen_sock;
VTAILQ_HEAD(listen_sock_head, listen_sock);

/* What the manager hands down as it forks the cache child, up to what is needed here. */
struct heritage {
	int			cli_fd;
	int			std_fd;
	int			vsm_fd;
	struct listen_sock_head	socks;
	const struct hash_slinger *hash;
	struct params		*param;
	const char		*identity;
	char			*panic_str;
	ssize_t			panic_str_len;
	/* Set in the child only. */
	struct VCLS		*cls;
	const char		*ident;
	long			mgt_pid;
};
extern struct heritage heritage;

#endif
