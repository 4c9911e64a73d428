# PURGE for a Varnish fleet: purges the object on every node, whatever vcl_hash makes of a request.
#
#	vcl 4.1;
#	import powderhorn;
#	include "powderhorn.vcl";
#
#	sub vcl_init {
#		powderhorn.start("/etc/varnish/powderhorn.toml");
#	}
#
# Who may purge: acl powderhorn_purgers, which is in a file of its own, powderhorn_purgers.vcl.
# Varnish looks for it along its parameter vcl_path, in /etc/varnish first, so a file of that name
# there takes the place of the one shipped with this file, which knows localhost only.
#
# In front of another cache that includes this file too, or behind one, x-url and x-host are each
# cache's own. A cache that fetches from another one (a shield) is to be purged after that one, or
# again a second later: what it fetches in between is the old content, fetched after the purge.
#
# Objects get two more headers: raise http_max_hdr where responses have nearly as many as it allows.
#
# A purge asks for the object that the same GET would get. So include this file after code in your
# vcl_recv that changes req.url or a header that your vcl_hash uses, and before code that returns,
# in vcl_recv and in vcl_pass.
# Whatever your vcl_synth adds to all answers goes before the include, too.
#
# Other purges than of one URL, as content management systems send them: powderhorn_clients.vcl, which includes
# this file, and the files beside it.
#
# Answers to a PURGE, as text:
#
#	200	applied on this node and sent to all others; X-Powderhorn-Id and the body hold the
#		purge's id. With the request header X-Powderhorn-Wait: applied on all nodes
#	202	"Not yet everywhere": X-Powderhorn-Wait was too short for some node. "Not waited for": it is
#		no duration, or 256 others were waiting. Sent to all nodes all the same
#	400	the request cannot be done: the body says why
#	405	the client is not one of powderhorn_purgers, or a proxy has passed the request on
#	503	"Not purged everywhere": the body says why, and what has been done; send it again. "Purged,
#		but not in the journal": the config says journal.require, and the disk does not work,
#		or was slower than journal.wait; applied here and sent, but maybe lost if this node
#		dies before the others have it. Other reasons: VCL failed before it was applied.
#
# X-Powderhorn-Wait: 2s, in a PURGE, has the answer wait until all nodes have applied it, for so long at
# most, a minute at most (of the two purges that a request may ask for, for each); X-Powderhorn-Applied in the answer says how many have ("4 of 5").
#
# For clients of powderhorn_purgers, and nobody else (403):
#
#	GET /.powderhorn/purge/<id>	the purge's receipt: where it is applied and who is missing (JSON)
#	GET /.powderhorn/status.json	the fleet as this node sees it
#	GET /.powderhorn/metrics	the same as series for a Prometheus (OpenMetrics)
#
# With limits.max_staleness in the config, a node that has heard of no other for longer than that
# serves no object that it has had for longer, until it has what it missed: those are fetched, and not
# kept. So include this file before code that returns in vcl_hit.

import std;
include "powderhorn_purgers.vcl";

sub vcl_recv {
	call powderhorn_host;
	if (req.url ~ "^/\.powderhorn/") {
		call powderhorn_look;
	}
	if (req.method == "PURGE") {
		call powderhorn_admit;
		# Not a purge of this URL. To purge that and answer 200 would leave the client's pages as they are.
		if (req.http.xkey || req.http.Surrogate-Key || req.http.X-Magento-Tags-Pattern ||
		    req.http.X-Pool || req.http.X-Purge-Method ~ "(?i)regex") {
			return (synth(400, "This takes powderhorn_clients.vcl, or a file beside it"));
		}
		# To vcl_pass, by when vcl_hash has said which object is meant.
		return (pass);
	}
	call powderhorn_forget;
}

# One name for one host, for lookups as well as for purges; powderhorn.purge() does the same.
sub powderhorn_host {
	if (req.http.Host ~ "[[:upper:]]|:(80|443)$") {
		set req.http.Host = regsub(req.http.Host.lower(), ":(80|443)$", "");
	}
}

# What this file and those beside it note in a request. No client may.
sub powderhorn_forget {
	unset req.http.X-Powderhorn-Id;
	unset req.http.X-Powderhorn-First;
	unset req.http.X-Powderhorn-Applied;
	unset req.http.X-Powderhorn-Answer;
	unset req.http.X-Powderhorn-Keys;
	unset req.http.X-Powderhorn-Any-Host;
}

# For a request that purges: only clients of powderhorn_purgers get any further, and vcl_synth answers as
# above. To be called first.
sub powderhorn_admit {
	call powderhorn_forget;
	set req.http.X-Powderhorn-Answer = "text";
	call powderhorn_keep_out;
	# Some clients ask the cache by its own address, an IP address or a name without a dot, to purge what
	# it has of a site, and name no site.
	if (req.http.Host !~ "\." || req.http.Host ~ "^([0-9.]+|\[.*)(:[0-9]+)?$") {
		set req.http.X-Powderhorn-Any-Host = "yes";
	}
}

# varnishd adds the connection's address to X-Forwarded-For: with two in it, a proxy has passed this on, and the
# address that is looked at is the proxy's.
sub powderhorn_keep_out {
	if (client.ip !~ powderhorn_purgers || req.http.X-Forwarded-For ~ ",") {
		return (synth(405, "Not allowed to purge"));
	}
}

# After a purge: X-Powderhorn-Id holds what powderhorn.purge() or another function returned, and of two purges
# X-Powderhorn-First what the first of them did. Each may take as long as the client waits.
sub powderhorn_answer {
	if (req.http.X-Powderhorn-Id == "") {
		unset req.http.X-Powderhorn-Id;
		if (!powderhorn.journalled()) {
			return (synth(503, "Purged, but not in the journal"));
		}
		return (synth(503, "Not purged everywhere"));
	}
	if (req.http.X-Powderhorn-Wait) {
		# Seconds without a unit; what is no duration is not waited for.
		if (req.http.X-Powderhorn-First &&
		    !powderhorn.wait(req.http.X-Powderhorn-First,
		    std.duration(req.http.X-Powderhorn-Wait, std.duration(req.http.X-Powderhorn-Wait + "s", -1s)))) {
			set req.http.X-Powderhorn-Applied = powderhorn.applied(req.http.X-Powderhorn-First);
			call powderhorn_not_yet;
		}
		if (!powderhorn.wait(req.http.X-Powderhorn-Id,
		    std.duration(req.http.X-Powderhorn-Wait, std.duration(req.http.X-Powderhorn-Wait + "s", -1s)))) {
			set req.http.X-Powderhorn-Applied = powderhorn.applied(req.http.X-Powderhorn-Id);
			call powderhorn_not_yet;
		}
		set req.http.X-Powderhorn-Applied = powderhorn.applied(req.http.X-Powderhorn-Id);
	}
	return (synth(200, "Purged"));
}

sub powderhorn_not_yet {
	if (!powderhorn.waited()) {
		return (synth(202, "Not waited for"));
	}
	return (synth(202, "Not yet everywhere"));
}

# vcl_synth knows the pages by their reasons: a header that says which one may be the client's own, where a synth() of
# other code comes before anything here.
sub powderhorn_look {
	call powderhorn_forget;
	if (client.ip !~ powderhorn_purgers || req.http.X-Forwarded-For ~ ",") {
		return (synth(403, "Not allowed"));
	}
	if (req.url ~ "^/\.powderhorn/purge/") {
		# Some clients encode the colon.
		set req.http.X-Powderhorn-Id = regsub(regsub(req.url, "^/\.powderhorn/purge/([^?]*).*$", "\1"),
		    "%3[Aa]", ":");
		set req.http.X-Powderhorn-Applied = powderhorn.applied(req.http.X-Powderhorn-Id);
		if (req.http.X-Powderhorn-Applied == "") {
			return (synth(404, "Not an id"));
		}
		return (synth(200, "Powderhorn receipt"));
	}
	if (req.url ~ "^/\.powderhorn/status\.json(\?|$)") {
		return (synth(200, "Powderhorn status"));
	}
	if (req.url ~ "^/\.powderhorn/metrics(\?|$)") {
		return (synth(200, "Powderhorn metrics"));
	}
	return (synth(404, "Nothing here"));
}

sub vcl_pass {
	# Asked once more: other code may pass a PURGE.
	if (req.method == "PURGE") {
		call powderhorn_keep_out;
		set req.http.X-Powderhorn-Id = powderhorn.purge_hash();
		call powderhorn_answer;
	}
}

# builtin.vcl sends methods that it does not know on to the backend, which may be a cache that takes the purge for
# this one's own.
sub vcl_pipe {
	if (req.method == "BAN" || req.method == "PURGEKEYS") {
		call powderhorn_admit;
		return (synth(400, "This takes powderhorn_clients.vcl, or a file beside it"));
	}
}

sub vcl_hit {
	if (powderhorn.isolated() && obj.age > powderhorn.max_staleness()) {
		return (pass);
	}
}

# A fetch that began before a purge may bring the old content. What goes into the cache is then taken
# away again by powderhorn itself, with or without the following; this fetches once more, so that
# the clients who wait for it get the new content, too. If that is overtaken as well, they get what
# there is, and for a second nobody waits for anybody else's fetch.
sub vcl_backend_fetch {
	powderhorn.mark();
}

sub vcl_backend_response {
	# What bans and flushes look at. Clients do not see them.
	set beresp.http.x-url = powderhorn.fetched_url();
	set beresp.http.x-host = powderhorn.fetched_host();

	# What builtin.vcl would not keep needs no second try, and may not bear one.
	if (!bereq.uncacheable && beresp.ttl + beresp.grace + beresp.keep > 0s &&
	    !beresp.http.Set-Cookie && beresp.http.Vary != "*" &&
	    beresp.http.Surrogate-Control !~ "(?i)no-store" &&
	    beresp.http.Cache-Control !~ "(?i:no-cache|no-store|private)" &&
	    powderhorn.overtaken()) {
		if (bereq.retries == 0 && powderhorn.may_retry()) {
			# What a 304 would revive has been purged.
			unset bereq.http.If-None-Match;
			unset bereq.http.If-Modified-Since;
			return (retry);
		}
		set beresp.uncacheable = true;
		set beresp.ttl = 1s;
	}
}

sub vcl_backend_error {
	set beresp.http.x-url = powderhorn.fetched_url();
	set beresp.http.x-host = powderhorn.fetched_host();
}

sub vcl_deliver {
	unset resp.http.x-url;
	unset resp.http.x-host;
	# What the files beside this one have added. A cache in front gets them, too, if it may purge.
	if (client.ip !~ powderhorn_purgers) {
		unset resp.http.X-Powderhorn-Keys;
	}
}

sub vcl_synth {
	if (resp.status == 200 && resp.reason == "Powderhorn receipt" && client.ip ~ powderhorn_purgers) {
		# The first look asks the others, and most of them answer within this.
		if (powderhorn.wait(req.http.X-Powderhorn-Id, 200ms)) {
			set resp.http.X-Powderhorn-Complete = "true";
		}
		set resp.http.Content-Type = "application/json";
		set resp.http.Cache-Control = "no-store";
		set resp.body = powderhorn.receipt(req.http.X-Powderhorn-Id);
		return (deliver);
	}
	if (resp.status == 200 && resp.reason == "Powderhorn status" && client.ip ~ powderhorn_purgers) {
		set resp.http.Content-Type = "application/json";
		set resp.http.Cache-Control = "no-store";
		set resp.body = powderhorn.status("json");
		return (deliver);
	}
	if (resp.status == 200 && resp.reason == "Powderhorn metrics" && client.ip ~ powderhorn_purgers) {
		set resp.http.Content-Type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
		set resp.http.Cache-Control = "no-store";
		set resp.body = powderhorn.metrics();
		return (deliver);
	}
	if (req.http.X-Powderhorn-Answer || req.method == "PURGE") {
		call powderhorn_headers;
		set resp.http.Content-Type = "text/plain; charset=utf-8";
		if (req.http.X-Powderhorn-Id) {
			set resp.body = req.http.X-Powderhorn-Id + {"
"};
		} elsif (resp.status >= 400 && powderhorn.problem()) {
			set resp.body = resp.reason + {"
"} + powderhorn.problem() + {"
"};
		} else {
			set resp.body = resp.reason + {"
"};
		}
		return (deliver);
	}
}

# Of the answer to a purge.
sub powderhorn_headers {
	# The VCL failed at what a client of powderhorn_clients.vcl or another of these files has sent.
	if (resp.status == 503 && req.http.X-Powderhorn-Answer && powderhorn.refused()) {
		set resp.status = 400;
		set resp.reason = "Cannot be done";
	}
	if (req.http.X-Powderhorn-Id) {
		set resp.http.X-Powderhorn-Id = req.http.X-Powderhorn-Id;
	}
	if (req.http.X-Powderhorn-Applied) {
		set resp.http.X-Powderhorn-Applied = req.http.X-Powderhorn-Applied;
	}
}
