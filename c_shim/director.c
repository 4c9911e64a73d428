/*
 * A director that is no backend: it has the fleet's state shown by `varnishadm backend.list`, in every
 * varnishd, without any option.
 */
#include "cache/cache_varnishd.h"
#include "cache/cache_director.h"

#include "vsb.h"

#include "varnishd_private.h"
#include "powderhorn_shim.h"

static ph_list_f *list_fleet;
static ph_healthy_f *fleet_is_healthy;

static VCL_BOOL v_matchproto_(vdi_healthy_f)
director_healthy(VRT_CTX, VCL_BACKEND dir, VCL_TIME *changed)
{
	double when = 0;
	int healthy;

	(void)ctx;
	CHECK_OBJ_NOTNULL(dir, DIRECTOR_MAGIC);
	AN(fleet_is_healthy);
	healthy = fleet_is_healthy(&when);
	/* What backend.list shows as the last change; never goes back. */
	VRT_SetChanged(dir, when);
	if (changed != NULL)
		*changed = when;
	return (healthy);
}

/* No backend: a fetch from it is a 503, as without any. */
static VCL_BACKEND v_matchproto_(vdi_resolve_f)
director_resolve(VRT_CTX, VCL_BACKEND dir)
{

	(void)ctx;
	CHECK_OBJ_NOTNULL(dir, DIRECTOR_MAGIC);
	return (NULL);
}

/*
 * As JSON it goes straight into the answer, among the other backends', so it must leave them room and be
 * whole by itself: with details it has to end with a comma. As text it goes into a table of varnishd's
 * that asserts that there are not too many tabs.
 */
static void v_matchproto_(vdi_list_f)
director_list(VRT_CTX, VCL_BACKEND dir, struct vsb *vsb, int pflag, int jflag)
{
	ssize_t len;
	size_t limit, room;

	AN(list_fleet);
	(void)director_healthy(ctx, dir, NULL);
	len = VSB_len(vsb);
	limit = cache_param->cli_limit;
	room = len >= 0 && (size_t)len < limit ? limit - (size_t)len : 0;
	list_fleet(pflag, jflag, room, ph_reply, vsb);
}

static const struct vdi_methods director_methods[1] = {{
	.magic =		VDI_METHODS_MAGIC,
	.type =			"powderhorn",
	.healthy =		director_healthy,
	.resolve =		director_resolve,
	.list =			director_list,
}};

const struct director *
ph_add_director(const struct vrt_ctx *ctx, ph_list_f *list, ph_healthy_f *healthy)
{

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	ASSERT_CLI();
	list_fleet = list;
	fleet_is_healthy = healthy;
	return (VRT_AddDirector(ctx, director_methods, NULL, "powderhorn"));
}

void
ph_delete_director(const struct director *dir)
{

	ASSERT_CLI();
	VRT_DelDirector(&dir);
}
