# Fastly's purge API, for clients that can be told to use another address than api.fastly.com. To be included before
# powderhorn.vcl or powderhorn_clients.vcl.
#
#	POST /service/<id>/purge	the keys in Surrogate-Key, or in a body {"surrogate_keys": [...]}
#	POST /service/<id>/purge/<key>	this key
#	POST /service/<id>/purge_all	everything; Fastly-Soft-Purge does not count, as with Fastly
#	POST /purge/<host>/<path>	this URL
#	PURGE /path			this URL, as with Fastly
#
# The answers are JSON as Fastly's: {"status":"ok","id":"..."}, and for several keys {"key":"id", ...}, with status 200.
# Errors are {"status":"error","msg":"..."}. Fastly-Soft-Purge, whatever its value, makes a purge soft. Fastly-Key, the
# token, is not looked at: powderhorn_purgers says who may purge, and any service id stands for this fleet.
#
# Read from: Fastly's API reference (Purging), and the clients made from it for Rust, JavaScript and Perl.

import blob;
import std;

sub vcl_recv {
	if (req.method == "POST" && req.url ~ "^(/service/[0-9A-Za-z]+/purge(_all|/[^/?]+)?(\?.*)?$|/purge/[^/?])") {
		call powderhorn_fastly_admit;
		if (req.url ~ "^/purge/") {
			set req.http.Host = regsub(req.url, "^/purge/(https?:/+)?([^/?]*).*$", "\2");
			set req.url = regsub(req.url, "^/purge/(https?:/+)?[^/?]*/?", "/");
			call powderhorn_host;
			# To vcl_pass, by when vcl_hash has said which object is meant.
			return (pass);
		} elsif (req.url ~ "^/service/[^/]+/purge_all(\?|$)") {
			set req.http.X-Powderhorn-Id = powderhorn.purge_all();
		} elsif (req.url ~ "^/service/[^/]+/purge/") {
			# One key: nothing in it may end it, or make two of it.
			if (req.url ~ "%(00|20|2[cC])") {
				return (synth(400, "No key has that"));
			}
			set req.http.X-Powderhorn-Id = powderhorn.purge_key(
			    blob.transcode(decoding = URL, encoding = IDENTITY,
			    encoded = regsub(req.url, "^/service/[^/]+/purge/([^?]*).*$", "\1")),
			    soft = req.http.Fastly-Soft-Purge ~ ".");
		} else {
			if (req.http.Surrogate-Key !~ "." && (std.integer(req.http.Content-Length, 0) > 1048576 ||
			    !std.cache_req_body(1MB))) {
				return (synth(400, "The body is too long"));
			}
			# As many as they are, they are too long for a header.
			set req.http.X-Powderhorn-Keys = "all";
			set req.http.X-Powderhorn-Id = powderhorn.purge_json_keys(req.http.Surrogate-Key,
			    soft = req.http.Fastly-Soft-Purge ~ ".");
		}
		call powderhorn_answer;
	}
	if (req.method == "PURGE" && !req.http.xkey && !req.http.Surrogate-Key && !req.http.X-Purge-Method &&
	    (req.http.Fastly-Key || req.http.Fastly-Soft-Purge)) {
		call powderhorn_fastly_admit;
		call powderhorn_host;
		return (pass);
	}
}

sub vcl_pass {
	# Asked once more: other code may pass a request that claims this.
	if (req.http.X-Powderhorn-Answer == "json" && client.ip ~ powderhorn_purgers &&
	    req.http.X-Forwarded-For !~ ",") {
		set req.http.X-Powderhorn-Id = powderhorn.purge_hash(soft = req.http.Fastly-Soft-Purge ~ ".");
		call powderhorn_answer;
	}
}

# As powderhorn_admit, but for answers in JSON.
sub powderhorn_fastly_admit {
	call powderhorn_forget;
	set req.http.X-Powderhorn-Answer = "json";
	call powderhorn_keep_out;
}

sub vcl_synth {
	# A VCL that failed has lost what it noted in the request.
	if (req.method == "POST" && powderhorn.refused()) {
		set req.http.X-Powderhorn-Answer = "json";
	}
	if (req.http.X-Powderhorn-Answer == "json") {
		call powderhorn_headers;
		set resp.http.Content-Type = "application/json";
		if (!req.http.X-Powderhorn-Id) {
			set req.http.X-Powderhorn-Keys = resp.reason;
			if (powderhorn.problem()) {
				set req.http.X-Powderhorn-Keys = resp.reason + ": " + powderhorn.problem();
			}
			# What JSON would want to be escaped does not matter to a reader.
			set resp.body = {"{"status":"error","msg":""} +
			    regsuball(req.http.X-Powderhorn-Keys, {"[^ !#-\[\]-~]"}, "'") + {"""} + "}";
		} elsif (req.http.X-Powderhorn-Keys) {
			set resp.body = powderhorn.json_ids(req.http.X-Powderhorn-Id, req.http.Surrogate-Key);
		} else {
			set resp.body = {"{"status":"ok","id":""} + req.http.X-Powderhorn-Id + {"""} + "}";
		}
		return (deliver);
	}
}
